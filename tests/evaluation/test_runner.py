"""Kept predictions: resumed after a crash, shared by processes, keyed by model and settings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.evaluation.suites.miniature import MINIATURES, Answers
from tests.tiny import tiny_model

from omni_diffusion.conversation import Part
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import EvaluationError, TaskError
from omni_diffusion.evaluation.predictions import PredictionStore, parts_of
from omni_diffusion.evaluation.results import (
    EvaluationSettings,
    find_records,
    kept_predictions,
    model_digest,
    read_record,
)
from omni_diffusion.evaluation.runner import Shard, run_benchmark
from omni_diffusion.evaluation.session import EvaluationSession
from omni_diffusion.evaluation.suites.items import FileBenchmark

POPE = next(m for m in MINIATURES if m.name == "pope")
COCO = next(m for m in MINIATURES if m.name == "coco-t2i")
MODEL = {"name": "it", "digest": "d"}
SETTINGS = EvaluationSettings("pope", "paper")


class Crash(Exception):
    """The end of a process."""


class Oracle:
    """Answers a benchmark rightly, and stops after some requests."""

    def __init__(self, benchmark: FileBenchmark, right: object, stop: int = 10**9) -> None:
        samples = benchmark.samples()
        self.answers = {sample.text: right(sample) for sample in samples}  # type: ignore[operator]
        self.stop, self.asked = stop, list[str]()

    def run(self, requests: Sequence[Request]) -> list[Result]:
        if len(self.asked) >= self.stop:
            raise Crash
        results = []
        for request in requests:
            text = request.conversation[0].parts[0].text  # type: ignore[union-attr]
            self.asked.append(text)
            parts: tuple[Part, ...] = self.answers[text]
            results.append(Result("", request.task_name, parts, None, (), 0.5, 3))
        return results


@pytest.fixture
def coco(tmp_path: Path) -> FileBenchmark:
    COCO.write(tmp_path / "data")
    return COCO.open(tmp_path / "data")


def test_a_killed_evaluation_answers_nothing_twice_and_reports_the_same(
    coco: FileBenchmark, tmp_path: Path
) -> None:
    whole = run_benchmark(coco, Oracle(coco, COCO.right))
    first, second = Oracle(coco, COCO.right, stop=4), Oracle(coco, COCO.right)
    with pytest.raises(Crash):
        run_benchmark(coco, first, store=PredictionStore(tmp_path / "out"), batch=2)
    kept = tmp_path / "out" / "predictions-0.jsonl"
    kept.write_bytes(kept.read_bytes() + b'{"facts": {"id"')  # torn by the crash
    again = run_benchmark(coco, second, store=PredictionStore(tmp_path / "out"), batch=2)
    assert again == whole
    assert len(first.asked) == 4
    assert sorted(first.asked + second.asked) == sorted(item.text for item in coco.samples())
    third = Oracle(coco, COCO.right, stop=0)
    assert run_benchmark(coco, third, store=PredictionStore(tmp_path / "out")) == whole


def test_predictions_hold_the_answers_and_their_scores(coco: FileBenchmark, tmp_path: Path) -> None:
    run_benchmark(coco, Oracle(coco, COCO.right), store=PredictionStore(tmp_path))
    predictions = kept_predictions(tmp_path)
    assert len(predictions) == len(coco.samples())
    for prediction in predictions:
        (part,) = parts_of(prediction.answer, tmp_path)
        assert part.picture.width == 16  # type: ignore[union-attr]
        assert prediction.scores["value"][1] == 1
        assert (prediction.steps, prediction.seconds) == (3, 0.5)


def test_a_changed_sample_is_answered_again(coco: FileBenchmark, tmp_path: Path) -> None:
    oracle = Oracle(coco, COCO.right)
    run_benchmark(coco, oracle, store=PredictionStore(tmp_path))
    first = coco.items[0]
    coco.items = [replace(first, facts={**first.facts, "expected": "a red"}), *coco.items[1:]]
    run_benchmark(coco, oracle, store=PredictionStore(tmp_path))
    assert oracle.asked[len(coco.items) :] == [first.text]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "predictions-0.jsonl").write_text("{}\n{}\n")
    with pytest.raises(EvaluationError, match=r"predictions-0\.jsonl:1"):
        PredictionStore(tmp_path)


def test_shards_share_a_folder_and_the_last_one_reports(
    coco: FileBenchmark, tmp_path: Path
) -> None:
    oracles = [Oracle(coco, COCO.right) for _ in range(3)]
    records = [
        EvaluationSession(oracle, MODEL, tmp_path, batch=2).run(
            coco, SETTINGS, shard=Shard(number, 3)
        )
        for number, oracle in enumerate(oracles)
    ]
    assert [record.result is not None for record in records] == [False, False, True]
    asked = [text for oracle in oracles for text in oracle.asked]
    assert sorted(asked) == sorted(item.text for item in coco.samples())
    assert records[-1].result == run_benchmark(coco, Oracle(coco, COCO.right))
    files = sorted(path.name for path in records[-1].folder(tmp_path).glob("*.jsonl"))
    assert files == [f"predictions-{number}.jsonl" for number in range(3)]


def test_a_record_says_what_was_run_and_is_found_again(coco: FileBenchmark, tmp_path: Path) -> None:
    session = EvaluationSession(Oracle(coco, COCO.right), MODEL, tmp_path / "out")
    record = session.run(coco, SETTINGS, limit=4)
    folder = record.folder(tmp_path / "out")
    assert read_record(folder) == record
    assert find_records([tmp_path]) == {folder: record}
    assert record.costs is not None
    assert (record.costs.n, record.costs.forward_passes, record.costs.latency) == (4, 3, 0.5)
    stored = (folder / "record.json").read_text()
    assert str(tmp_path) not in stored
    assert {"commit", "torch", "cpu"} <= set(json.loads(stored)["environment"])
    more = session.run(coco, SETTINGS)
    assert more.folder(tmp_path) == record.folder(tmp_path)
    assert len(session.engine.asked) == len(coco.samples())  # type: ignore[attr-defined]


def test_another_model_or_setting_has_its_own_folder(coco: FileBenchmark, tmp_path: Path) -> None:
    oracle = Oracle(coco, COCO.right)
    session = EvaluationSession(oracle, MODEL, tmp_path)
    others = [
        replace(SETTINGS, overrides={"steps": 3}),
        replace(SETTINGS, preset="upstream"),
        replace(SETTINGS, judges={"clip": "another"}),
    ]
    folders = {session.run(coco, each).folder(tmp_path) for each in (SETTINGS, *others)}
    session.model = {**MODEL, "digest": "e"}
    folders.add(session.run(coco, SETTINGS).folder(tmp_path))
    assert len(folders) == 5
    assert len(oracle.asked) == 5 * len(coco.samples())


def test_the_digest_of_a_model_is_that_of_its_files(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "a")
    tiny_model().save(tmp_path / "b")
    tiny_model(seed=1).save(tmp_path / "c")
    (tmp_path / "b" / "README.md").write_text("a card")
    one, same, other = (model_digest(tmp_path / name) for name in "abc")
    assert one == same != other


class Failing(Answers):
    """Fails at every request."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        error = TaskError("too long")
        return [replace(result, parts=(), error=error) for result in super().run(requests)]


def test_failures_of_every_request_are_raised_and_not_kept(
    coco: FileBenchmark, tmp_path: Path
) -> None:
    store = PredictionStore(tmp_path)
    with pytest.raises(EvaluationError, match="too long"):
        run_benchmark(coco, Failing([()] * 99), store=store)
    assert len(store) == 0


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "a/b", "1/0"])
def test_a_shard_has_a_form(text: str) -> None:
    with pytest.raises(EvaluationError, match="such as 0/4"):
        Shard.parse(text)
    assert Shard.parse("1/4").of_samples(range(9)) == range(1, 9, 4)
