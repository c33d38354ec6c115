"""The numbers of both presets, as paper and published scripts have them, and their tables."""

import json
import re
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from tests.tasks.tiny_scenes import CONVERSATIONS, HEARD, SAID
from tests.tiny import tone

from omni_diffusion.cli import run as cli
from omni_diffusion.cli.main import main
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TaskError
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import presets
from omni_diffusion.tasks.catalog import CATALOG, task
from omni_diffusion.tasks.defaults import GenerationConfig, Length
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.presets import PRESETS, preset
from omni_diffusion.tasks.render import render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "generation-parameters.md"
UPSTREAM = SamplingParams(rules="upstream", constrain=False, top_p=0.9, top_k=50)
MEASURED = "librispeech libritts mme pope seed-bench-2-plus mmmu coco-t2i clip-s2i spoken-mme"
# Repetition, position, guidance, places.
PAPER: dict[str, tuple[float, float, float, Length | None]] = {
    "asr": (1, 1, 0, Length(0.2, of="speech")),
    "tts": (1.2, 1, 0, Length(3.5, of="text")),
    "t2i": (1.2, 2, 0, None),
    "vqa": (1, 1, 0, Length(extra=64)),
    "s2i": (1.5, 2, 2, None),
    "svqa": (1.2, 1, 0, Length(extra=128)),
    "librispeech": (1, 1, 0, Length(0.2, of="speech")),
    "libritts": (1.2, 1, 0, Length(3.5, of="text")),
    "mme": (1, 1, 0, Length(extra=8)),
    "coco-t2i": (1.2, 2, 0, None),
    "clip-s2i": (1.5, 2, 2, None),
}
PUBLISHED: dict[str, tuple[SamplingParams, Length | None, float]] = {
    "chat": (replace(UPSTREAM, temperature=0.2, top_p=0.95), Length(extra=512), 1),
    "asr": (UPSTREAM, Length(extra=50), 0.5),
    "tts": (UPSTREAM, Length(extra=50), 0.5),
    "t2i": (replace(UPSTREAM, repetition_penalty=1.2, position_penalty=2.0), None, 1),
    "vqa": (UPSTREAM, Length(extra=64), 1),
    "s2i": (
        replace(UPSTREAM, repetition_penalty=1.5, position_penalty=2.0, guidance=2.0),
        None,
        1,
    ),
    "svqa": (replace(UPSTREAM, repetition_penalty=1.2), Length(extra=128), 1),
    "librispeech": (UPSTREAM, Length(0.2, of="speech"), 0.5),
    "libritts": (replace(UPSTREAM, repetition_penalty=1.2), Length(3.5, of="text"), 0.5),
    "mme": (UPSTREAM, Length(extra=8), 1),
}


# --------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize("name", PAPER)
def test_paper_numbers(name: str) -> None:
    setting = preset("paper").of(name)
    repetition, position, guidance, length = PAPER[name]
    assert setting.params == SamplingParams(
        repetition_penalty=repetition, position_penalty=position, guidance=guidance
    )
    assert setting.length == length
    assert setting.pace is None
    assert CATALOG[setting.task].pace == (0.5 if setting.task in ("asr", "tts") else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_upstream_numbers(name: str) -> None:
    setting = preset("upstream").of(name)
    assert (setting.params, setting.length, setting.pace) == PUBLISHED[name]
    assert setting.whole_prompt is (name == "librispeech")


def test_all_that_upstream_samples_follows_its_rules() -> None:
    found = preset("upstream")
    for setting in (*found.tasks.values(), *found.benchmarks.values()):
        params = setting.params
        assert (params.rules, params.constrain, params.top_k) == ("upstream", False, 50)


@pytest.mark.parametrize("name", PRESETS)
def test_every_task_has_its_setting(name: str) -> None:
    assert list(preset(name).tasks) == list(CATALOG)
    assert all(setting.task == key for key, setting in preset(name).tasks.items())


def test_the_benchmarks_are_the_papers_and_those_that_the_code_measures() -> None:
    assert list(preset("paper").benchmarks) == MEASURED.split()
    assert list(preset("upstream").benchmarks) == MEASURED.split()[:3]


@pytest.mark.parametrize("name", CATALOG)
def test_paper_is_what_a_task_does_by_itself(name: str, model: OmniModel) -> None:
    asked = preset("paper").of(name).settle(CONVERSATIONS[name], model)
    ours = render(task(name), CONVERSATIONS[name], model, asked.params, max_tokens=asked.max_tokens)
    plain = render(task(name), CONVERSATIONS[name], model)
    assert ours.params == plain.params
    assert ours.canvas.ids.tolist() == plain.canvas.ids.tolist()


def test_whatever_is_ours_says_why() -> None:
    for found in PRESETS.values():
        for setting in (*found.tasks.values(), *found.benchmarks.values()):
            origin = setting.origin
            guessed = "ours" in (origin.length, origin.steps, origin.repetition, origin.drawing)
            assert origin.note or not guessed


# ---------------------------------------------------------------------------------------- frozen
def test_presets_cannot_be_changed() -> None:
    found = preset("paper")
    with pytest.raises(FrozenInstanceError):
        found.name = "mine"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        found.of("asr").pace = 2.0  # type: ignore[misc]
    for room in (found.tasks, found.benchmarks, PRESETS):
        with pytest.raises(TypeError, match="does not support item assignment"):
            room["asr"] = found.of("tts")  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "told"),
    [("upsteam", "did you mean upstream?"), ("best", "give one of paper, upstream")],
)
def test_an_unknown_preset_names_the_known_ones(name: str, told: str) -> None:
    with pytest.raises(TaskError, match=rf"no preset is called '{name}'; {re.escape(told)}"):
        preset(name)


def test_an_unknown_setting_names_the_known_ones() -> None:
    with pytest.raises(TaskError, match="preset 'paper' has no setting 'xyz'; give one of chat"):
        preset("paper").of("xyz")
    with pytest.raises(TaskError, match="'upstream' has no setting 'pope'"):
        preset("upstream").of("pope")


# ------------------------------------------------------------------------ for a conversation
def test_a_preset_comes_before_the_models_own_numbers(model: OmniModel) -> None:
    generation = GenerationConfig(
        lengths={"tts": (2.0, 30), "vqa": (0.0, 17)},
        sampling={"tts": SamplingParams(steps=5)},
    )
    config = replace(model.config, generation=generation)
    own = OmniModel(config, model.codecs, model.backbone)
    tokens = len(model.codecs.text.encode(SAID.text))
    params, length = preset("paper").of("tts").settle(CONVERSATIONS["tts"], own)
    assert length == max(8, int(3.5 * tokens))
    assert params == SamplingParams(repetition_penalty=1.2)
    assert preset("paper").of("mme").settle(CONVERSATIONS["vqa"], own).max_tokens == 8
    assert preset("paper").of("s2i").settle(CONVERSATIONS["s2i"], own).max_tokens is None


def test_the_published_transcript_has_a_fifth_of_the_whole_prompt(model: OmniModel) -> None:
    said = CONVERSATIONS["asr"]
    before, _ = render(task("asr"), said, model).canvas.answer
    params, length = preset("upstream").of("librispeech").settle(said, model)
    assert length == max(8, int(0.2 * before))
    assert params.steps == length // 2
    turns = encode(said, model.codecs)  # encoded once, for both
    assert preset("upstream").of("librispeech").settle(turns, model) == (params, length)


def test_published_steps_are_rounded_down_and_count_every_place(model: OmniModel) -> None:
    upstream = preset("upstream")
    params, length = upstream.of("asr").settle(CONVERSATIONS["asr"], model, 41)
    assert (params.steps, length) == (20, 41)
    assert upstream.of("asr").settle(CONVERSATIONS["asr"], model).params.steps == 25
    assert upstream.of("tts").settle(CONVERSATIONS["tts"], model, 1).params.steps == 1
    cells = model.codecs.image.config.tokens(model.codecs.image.config.generation_size)
    for asked in (None, 41):
        drawn = upstream.of("t2i").settle(CONVERSATIONS["t2i"], model, asked)
        assert drawn.params.steps == cells + 4


def test_published_speech_begins_after_a_fifth(model: OmniModel) -> None:
    asked = preset("upstream").of("svqa").settle(CONVERSATIONS["svqa"], model)
    assert asked == (replace(UPSTREAM, repetition_penalty=1.2, steps=128), 128)
    prepared = render(task("svqa"), CONVERSATIONS["svqa"], model, asked.params, max_tokens=128)
    opener = prepared.canvas.ids[prepared.canvas.answer[0] + 25]
    assert int(opener) == model.vocabulary.begin_of_audio
    assert prepared.canvas.blanks == 127


@pytest.mark.parametrize("name", CATALOG)
def test_upstream_runs_every_task(name: str, model: OmniModel) -> None:
    asked, length = preset("upstream").of(name).settle(CONVERSATIONS[name], model)
    quick = replace(asked, steps=2)
    (result,) = Engine(model).run([Request(name, CONVERSATIONS[name], quick, length)])
    assert result.error is None
    assert 1 <= result.steps <= 2


# ----------------------------------------------------------------------------------- command line
def steps_of(monkeypatch: pytest.MonkeyPatch, model: OmniModel, *words: str) -> tuple[int, int]:
    """Steps made and places of the answer, when `omni-diffusion run asr` is typed."""
    monkeypatch.setattr(cli, "open_model", lambda folder, device, quantization, dtype: model)
    typed = ["omni-diffusion", "run", "asr", "--speech", "hum.wav", "--trace", "told.json", *words]
    monkeypatch.setattr(sys, "argv", typed)
    main()
    told = json.loads(Path("told.json").read_text())
    return len(told["steps"]), len(told["answer"])


def test_what_is_typed_comes_before_the_preset(
    model: OmniModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    tone().write("hum.wav")
    words = ("--preset", "upstream")
    assert steps_of(monkeypatch, model, *words) == (25, 50)
    assert steps_of(monkeypatch, model, *words, "--steps", "3") == (3, 50)
    assert steps_of(monkeypatch, model, *words, "--max-tokens", "31") == (15, 31)
    official = steps_of(monkeypatch, model, "--preset", "paper", "--steps", "2")
    frames = len(model.codecs.hearing.encode(HEARD.waveform))
    assert official == (2, max(8, int(0.2 * frames)))


def test_a_mistyped_preset_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["omni-diffusion", "run", "t2i", "a", "--preset", "best"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: no preset is called 'best'; give one of paper, upstream (--preset)\n"


# ------------------------------------------------------------------------------------------- page
@pytest.mark.parametrize("name", PRESETS)
def test_the_page_has_the_table_that_the_records_make(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    made = presets.table(name)
    told = page.partition(f"<!-- table: {name} -->\n")[2].partition("\n<!-- end -->")[0]
    assert told == made, f"put this between the marks of {PAGE.name}:\n{made}"


def test_the_pages_python_runs(model: OmniModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_diffusion.models.omni.OmniModel.open", lambda: model)
    script = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(compile(script, PAGE.name, "exec"), names)
    assert names["result"].error is None  # type: ignore[attr-defined]
