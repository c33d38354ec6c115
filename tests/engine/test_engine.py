"""Many requests at once are each what they would be alone; failures stay with their request."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy
import pytest
import torch
from tests.tasks.tiny_scenes import CONVERSATIONS
from tests.tiny import tiny_model

from omni_diffusion.conversation import Frames, Image, Message, Speech, Text
from omni_diffusion.diffusion.sampler import SamplingParams
from omni_diffusion.engine import prepare as prepare_module
from omni_diffusion.engine.engine import Engine, Progress
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.errors import ConfigError, MediaError, ModelError, OmniError, TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks.catalog import CATALOG

MIXED: dict[str, SamplingParams | None] = {
    "chat": None,
    "asr": SamplingParams(steps=6, temperature=0.8, seed=3),
    "tts": SamplingParams(steps=9, guidance=1.5, temperature=1.0, top_p=0.9, seed=4),
    "t2i": SamplingParams(position_penalty=2.0, repetition_penalty=1.2),
    "vqa": SamplingParams(confidence="margin", block_length=4),
    "s2i": SamplingParams(steps=7, guidance=2.0, temperature=0.7, seed=5),
    "svqa": SamplingParams(confidence_temperature=0.5, seed=6),
    "inpaint": SamplingParams(guidance=1.0, rules="upstream", steps=5),
}


@pytest.fixture(scope="module")
def model() -> OmniModel:
    """Not the folder's: this one is surer of itself, so that roundings decide nothing."""
    model = tiny_model()
    with torch.no_grad():
        model.backbone.lm_head.weight.mul_(30)
    return model


def ask(name: str, **options: object) -> Request:
    options = {"params": MIXED.get(name), "max_tokens": 12} | options
    return Request(name, CONVERSATIONS[name], **options)  # type: ignore[arg-type]


def mixed() -> list[Request]:
    return [ask(name, trace=True) for name in MIXED]


def tokens(results: Sequence[Result]) -> list[list[int]]:
    return [[] if r.canvas is None else r.canvas.ids.tolist() for r in results]


def places(result: Result) -> list[list[int]]:
    return [record.positions.tolist() for record in result.trace]


@pytest.fixture(scope="module")
def alone(model: OmniModel) -> list[Result]:
    return [Engine(model, max_batch=1).run([request])[0] for request in mixed()]


@pytest.mark.parametrize(
    "engine",
    [
        {"max_batch": 8},
        {"max_batch": 3},  # they join as others leave
        {"max_batch": 8, "max_step_tokens": 150},  # they take turns
        {"max_batch": 8, "max_step_tokens": 1},
    ],
    ids=str,
)
def test_a_batch_is_its_requests_alone(
    engine: dict[str, int], alone: list[Result], model: OmniModel
) -> None:
    together = Engine(model, **engine).run(mixed())  # type: ignore[arg-type]
    assert [r.error for r in together] == [None] * len(MIXED)
    assert tokens(together) == tokens(alone)
    for one, other in zip(together, alone, strict=True):
        assert places(one) == places(other)
        assert one.steps == other.steps


def test_requests_join_at_any_step(alone: list[Result], model: OmniModel) -> None:
    engine, results = Engine(model), {}
    for request in reversed(mixed()):
        engine.add(Request(**{**vars(request), "id": request.task_name}))
        for id in engine.step():
            results[id] = engine.result(id)
    while engine.pending:
        for id in engine.step():
            results[id] = engine.result(id)
    assert tokens([results[name] for name in MIXED]) == tokens(alone)


def test_only_the_seed_decides(model: OmniModel) -> None:
    def draw(seed: int) -> list[list[int]]:
        params = SamplingParams(temperature=1.0, seed=seed)
        return tokens(Engine(model).run([ask("t2i", params=params)]))

    assert draw(1) == draw(1) != draw(2)


def test_nothing_outside_is_touched(model: OmniModel) -> None:
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    results = Engine(model).run(mixed())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    for result in results:  # whoever gets them may go on working with them
        assert result.canvas is not None
        held = [result.canvas.ids, *(t for r in result.trace for t in vars(r).values())]
        held += [p.picture.pixels for p in result.parts if isinstance(p, Image)]
        held += [p.waveform.samples for p in result.parts if isinstance(p, Speech)]
        assert not any(each.is_inference() for each in held)


def test_answers_have_the_parts_of_their_task(alone: list[Result]) -> None:
    kinds = {"text": Text, "image": Image, "speech": Speech}
    for result in alone:
        assert result.canvas is not None
        assert result.canvas.blanks == 0
        wanted = [kinds[kind] for kind in CATALOG[result.task].answer or ("image",)]
        assert [type(part) for part in result.parts] == wanted[: len(result.parts)]
        assert len(result.parts) == len(wanted) or result.notes
        assert result.seconds > 0


def test_the_trace_tells_every_step(alone: list[Result]) -> None:
    for result in alone:
        assert result.canvas is not None
        start, stop = result.canvas.answer
        assert len(result.trace) == result.steps
        written = torch.zeros(stop - start, dtype=torch.bool)
        last = None
        for record in result.trace:
            assert not bool(written[record.positions].any())
            written[record.positions] = True
            assert torch.equal(record.ids[record.positions], record.tokens)
            if last is not None:
                changed = (record.ids != last).nonzero().flatten()
                assert torch.equal(changed, record.positions)
            last = record.ids
        assert last is not None
        assert torch.equal(last, result.canvas.ids[start:stop])


def test_no_trace_unless_asked(model: OmniModel) -> None:
    assert Engine(model).run([ask("chat")])[0].trace == ()


def test_a_guided_step_is_one_pass(model: OmniModel) -> None:
    calls = []

    def count(module: object, args: object, options: dict[str, list[int]]) -> None:
        calls.append(len(options["lengths"]))

    hook = model.backbone.register_forward_pre_hook(count, with_kwargs=True)
    result = Engine(model).run([ask("s2i")])[0]
    hook.remove()
    assert calls == [2] * result.steps


def test_bad_requests_fail_alone(alone: list[Result], model: OmniModel) -> None:
    names = list(MIXED)
    good = mixed()
    deaf = Request("asr", (Message("user", (Frames(torch.zeros(4, 7)),)),))
    bad = [
        Request("speak", CONVERSATIONS["tts"]),
        Request("t2i", CONVERSATIONS["asr"]),
        Request("chat", ()),
        deaf,
    ]
    results = Engine(model, max_batch=12).run([*bad, *good])
    found = [type(r.error) for r in results[:4]]
    assert found == [TaskError, TaskError, TaskError, ModelError]
    assert "did you mean" in str(results[0].error) or "give one of" in str(results[0].error)
    assert [(r.parts, r.steps) for r in results[:4]] == [((), 0)] * 4
    assert [r.canvas is None for r in results[:4]] == [True, True, True, False]
    assert [r.error for r in results[4:]] == [None] * len(names)
    assert tokens(results[4:]) == tokens(alone)


def test_sound_that_is_no_number_fails_alone(alone: list[Result], model: OmniModel) -> None:
    noise = Request("asr", (Message("user", (Frames(torch.full((4, 16), float("nan"))),)),))
    results = Engine(model, max_batch=9).run([noise, *mixed()])
    assert isinstance(results[0].error, ModelError)
    assert "not finite" in str(results[0].error)
    assert tokens(results[1:]) == tokens(alone)


def test_an_answer_that_cannot_be_read(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read = prepare_module.read

    def refuse(canvas: object, prepared: object, model: object) -> object:
        if prepared.task.name == "t2i":  # type: ignore[attr-defined]
            raise MediaError("broken")
        return read(canvas, prepared, model)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare_module, "read", refuse)
    bad, good = Engine(model).run([ask("t2i"), ask("chat")])
    assert isinstance(bad.error, MediaError)
    assert bad.canvas is not None
    assert bad.canvas.blanks == 0
    assert good.error is None
    assert good.parts


@pytest.fixture
def broken(model: OmniModel) -> Iterator[OmniModel]:
    """A model that dies as soon as a pass holds more than 40 blanks."""

    def die(module: object, args: object, options: dict[str, torch.Tensor]) -> None:
        if int(options["logits_at"].sum()) > 40:
            raise RuntimeError("out of memory")

    hook = model.backbone.register_forward_pre_hook(die, with_kwargs=True)
    yield model
    hook.remove()


def test_a_pass_too_large_is_tried_in_parts(broken: OmniModel, alone: list[Result]) -> None:
    assert tokens(Engine(broken).run(mixed())) == tokens(alone)


def test_the_unexpected_leaves_a_clean_engine(broken: OmniModel) -> None:
    engine = Engine(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run([ask("chat"), ask("chat", max_tokens=60), ask("vqa")])
    assert engine.pending == 0
    assert not engine._results
    id = engine.add(ask("chat", max_tokens=60))
    assert engine.step() == [id]  # whoever steps by hand gets it as a result, and nothing hangs
    assert isinstance(engine.result(id).error, RuntimeError)
    assert engine.run([ask("chat")])[0].error is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_progress_may_stop_a_run(error: type[BaseException], model: OmniModel) -> None:
    def stop(progress: Progress) -> None:
        if progress.fraction > 0.3:
            raise error

    engine = Engine(model, max_batch=2)
    other = engine.add(ask("t2i"))
    with pytest.raises(error):
        engine.run(mixed(), stop)
    assert {*engine._waiting, *engine._running, *engine._decoding, *engine._results} == {other}
    while engine.pending:
        engine.step()
    assert engine.result(other).error is None


def test_progress_tells_the_truth(model: OmniModel) -> None:
    seen: list[Progress] = []
    results = Engine(model, max_batch=3).run(mixed(), seen.append)
    shares = [each.fraction for each in seen]
    assert shares == sorted(shares)
    assert (seen[-1].finished, seen[-1].total, seen[-1].fraction) == (8, 8, 1.0)
    assert len(seen) >= max(result.steps for result in results)
    assert Engine(model).run([]) == []


def test_abort_leaves_nothing(model: OmniModel) -> None:
    engine = Engine(model, max_batch=1)
    first, second, third = (engine.add(ask("chat", max_tokens=8)) for _ in range(3))
    engine.step()
    assert engine.abort(first)  # runs
    assert engine.abort(second)  # waits
    while engine.pending:
        engine.step()
    assert engine.abort(third)  # is finished
    assert not engine.abort(third)
    assert engine.pending == 0
    assert not engine._results
    for id in (first, second, third):
        with pytest.raises(TaskError, match="not known"):
            engine.result(id)


def test_progress_may_abort(model: OmniModel) -> None:
    engine = Engine(model)
    gone, kept = engine.run(
        [ask("chat", id="gone"), ask("chat", id="kept")], lambda _: engine.abort("gone") or None
    )
    assert isinstance(gone.error, OmniError)
    assert (gone.id, kept.error) == ("gone", None)


def test_look_shows_what_is_sure(model: OmniModel) -> None:
    engine = Engine(model)
    id = engine.add(ask("svqa", params=SamplingParams(block_length=1)))
    assert engine.look(id) is None
    said: list[int] = []
    shares = []
    while not engine.step():
        look = engine.look(id)
        assert look is not None
        text, _ = look.spans
        assert text.codes[: len(said)].tolist() == said
        said = text.codes.tolist()
        shares.append(look.progress)
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    assert engine.look(id) is None


def test_ids_and_results(model: OmniModel) -> None:
    engine = Engine(model)
    id = engine.add(ask("chat", id="request-1"))
    with pytest.raises(TaskError, match="in use"):
        engine.add(ask("chat", id="request-1"))
    other = engine.add(ask("chat"))
    assert other != id
    with pytest.raises(TaskError, match="not finished"):
        engine.result(id)
    finished: list[str] = []
    while engine.pending:
        finished += engine.step()
    assert sorted(finished) == sorted([id, other])
    assert engine.step() == []
    assert engine.result(id).id == id
    with pytest.raises(TaskError, match="not known"):
        engine.result(id)


def test_a_task_may_be_given_whole(model: OmniModel) -> None:
    by_name = Engine(model).run([ask("vqa")])
    whole = Request(CATALOG["vqa"], CONVERSATIONS["vqa"], MIXED["vqa"], max_tokens=12)
    assert tokens(Engine(model).run([whole])) == tokens(by_name)


@pytest.mark.parametrize("sizes", [{"max_batch": 0}, {"max_step_tokens": -1}])
def test_sizes_below_one_are_refused(sizes: dict[str, int], model: OmniModel) -> None:
    with pytest.raises(ConfigError, match=next(iter(sizes))):
        Engine(model, **sizes)  # type: ignore[arg-type]
