"""Commands as a person types them: answers to stdout and files, mistakes as one line, code 2."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image as PilImage
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.cli.main import main
from omni_diffusion.evaluation.speech import SCORING_PACKAGES, WHISPER_PACKAGES, missing
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.mini import evaluate as mini_evaluate
from omni_diffusion.mini import recipe
from omni_diffusion.mini.evaluate import BANK
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG

SPOKEN = ("data", "sdvi", "a", "--vqa", "no.jsonl")
SAY = "tests.data.sdvi.sine_synthesizer:recorded"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save(folder)
    return folder


@pytest.fixture
def call(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """Type a command in an empty folder, with the tiny model; other options may name another."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> Said:
        bare = "--model" in words or words[0] in ("train", "data", "convert")
        folder = [] if bare else ["--model", str(model)]
        monkeypatch.setattr(sys, "argv", ["omni-diffusion", *words, *folder])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return typed


Call = Callable[..., Said]


def left() -> set[str]:
    """Names of all files in the folder."""
    return {str(path) for path in Path().rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------- answers
def test_a_picture_goes_to_a_file_of_the_tasks_name(call: Call) -> None:
    said = call("run", "t2i", "a red apple", "--steps", "3")
    assert (said.code, said.out) == (0, "")
    wrote, took = said.err.splitlines()
    assert wrote == "wrote t2i.png"
    assert took.startswith("3 steps in ")
    assert Picture.read("t2i.png").width == 8


@pytest.mark.slow
def test_the_suffix_of_out_chooses_the_format_and_a_folder_takes_the_name(call: Call) -> None:
    Path("answers").mkdir()
    assert call("run", "t2i", "--text", "a red apple", "--out", "apple.jpg").code == 0
    assert Path("apple.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert call("run", "t2i", "a red apple", "--out", "answers").code == 0
    assert left() == {"apple.jpg", "answers/t2i.png"}


def test_words_go_to_stdout_alone(call: Call) -> None:
    tone().write("hum.wav")
    said = call("run", "asr", "--speech", "hum.wav", "--max-tokens", "12")
    assert said.code == 0
    assert said.out.endswith("\n")
    assert left() == {"hum.wav"}


@pytest.mark.slow
def test_a_long_text_is_spoken_in_passages(call: Call) -> None:
    text = " ".join(f"Here are {n} more words to be read aloud." for n in range(40))
    part = text[: len(text) // 4]
    said = call("run", "tts", part, "--out", "long.wav", "--steps", "10")
    assert said.code == 0, said.err
    assert re.match(r"note: spoken in \d+ passages\nwrote long.wav\n", said.err)
    for option in (("--max-tokens", "40"), ("--trace", "trace.json")):
        said = call("run", "tts", text, "--out", "no.wav", *option)
        assert said.code == 2
        assert "shorten it" in said.err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_speech(call: Call) -> None:
    for out in ("a.wav", "b.wav"):
        said = call("run", "tts", "hello there", "--seed", "7", "--out", out)
        assert said.code == 0, said.err
    assert torch.equal(Waveform.read("a.wav").samples, Waveform.read("b.wav").samples)


def test_a_trace_tells_every_step(call: Call) -> None:
    checkers().write("it.png")
    options = ("--confidence", "margin", "--steps", "5", "--trace", "trace.json")
    assert call("run", "vqa", "what is it?", "--image", "it.png", *options).code == 0
    told = json.loads(Path("trace.json").read_text())
    assert told["task"] == "vqa"
    assert len(told["steps"]) == 5
    for step in told["steps"]:
        assert [told["answer"][at] for at in step["positions"]] == step["tokens"]
        assert len(step["confidences"]) == len(step["positions"])


@pytest.mark.slow
def test_guidance_is_heard(call: Call) -> None:
    for weight in ("0", "9"):
        call("run", "t2i", "a red apple", "--guidance", weight, "--out", f"{weight}.png")
    assert Path("0.png").read_bytes() != Path("9.png").read_bytes()


@pytest.mark.parametrize("mask", ["0,0,4,8", "mask.png"])
def test_inpainting_keeps_what_lies_outside_of_the_mask(call: Call, mask: str) -> None:
    picture = checkers()
    picture.write("it.png")
    drawn = torch.zeros(8, 8, 3, dtype=torch.uint8)
    drawn[:, :4] = 255
    Picture(drawn).write("mask.png")
    said = call("run", "inpaint", "a dog", "--image", "it.png", "--mask", mask)
    assert said.code == 0, said.err
    made = Picture.read("inpaint.png").pixels
    assert torch.equal(made[:, 4:], picture.pixels[:, 4:])
    assert not torch.equal(made[:, :4], picture.pixels[:, :4])


def test_infill_keeps_the_words_around_its_gaps(call: Call) -> None:
    checkers().write("it.png")
    said = call("run", "infill", "a ___ on a _ background", "--image", "it.png")
    assert said.code == 0, said.err
    assert said.out.startswith("a")
    assert " on a" in said.out
    assert said.out.endswith(" background\n")


def test_a_picture_that_is_no_square_is_answered_with_a_note(call: Call) -> None:
    Picture(torch.zeros(30, 50, 3, dtype=torch.uint8)).write("wide.png")
    said = call("run", "caption", "--image", "wide.png")
    assert said.code == 0
    assert "note: the picture is 50 x 30: the model sees the 30 x 30 in its middle" in said.err


@pytest.mark.parametrize("task", ["chat", "vqa", "sqa"])
def test_an_answer_without_words_has_a_note(
    call: Call, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr("omni_diffusion.tasks.read.text_ids", lambda ids, vocabulary: ids[:0])
    checkers().write("it.png")
    tone().write("hum.wav")
    given = {
        "chat": ("hello",),
        "vqa": ("what?", "--image", "it.png"),
        "sqa": ("--speech", "hum.wav"),
    }
    said = call("run", task, *given[task], "--steps", "2", "--max-tokens", "16")
    assert (said.code, said.out) == (0, "")
    assert "note: the answer has no text: the model wrote no word" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--trace", "full/t.json"), ("--out", "full/s.wav")])
def test_an_error_of_one_file_costs_neither_the_other_nor_the_words(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    Path("full").mkdir()
    real = os.fsync

    def full(descriptor: int) -> None:
        if "full" in str(Path(f"/proc/self/fd/{descriptor}").resolve()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("omni_diffusion.conversation.text_of", lambda parts: "some words")
    tone().write("hum.wav")
    given = {"--out": "s.wav", "--trace": "t.json"} | {words[0]: words[1]}
    options = [word for pair in given.items() for word in pair]
    said = call("run", "sqa", "--speech", "hum.wav", "--max-tokens", "40", *options)
    assert (said.code, said.out) == (2, "some words\n")
    assert "error: cannot write full/" in said.err
    assert left() - {"hum.wav"} == {"t.json" if words[0] == "--out" else "s.wav"}


@pytest.mark.parametrize("option", ["--out", "--trace"])
def test_a_link_stays_and_its_target_is_written(call: Call, option: str) -> None:
    Path("there").mkdir()
    suffix = ".png" if option == "--out" else ".json"
    Path(f"link{suffix}").symlink_to(Path("there", f"real{suffix}"))
    said = call("run", "t2i", "a dog", "--steps", "2", option, f"link{suffix}")
    assert said.code == 0, said.err
    assert Path(f"link{suffix}").is_symlink()
    assert f"there/real{suffix}" in left()
    assert not Path("there", f"real{suffix}").is_symlink()


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (12, 30), (30, 7)])
def test_an_inpainted_picture_has_the_size_of_the_given_one(
    call: Call, size: tuple[int, int]
) -> None:
    given = Picture(torch.randint(0, 256, (*size, 3), dtype=torch.uint8))
    given.write("it.png")
    said = call("run", "inpaint", "--image", "it.png", "--mask", "1,1,4,6", "--steps", "2")
    assert said.code == 0, said.err
    made = Picture.read("inpaint.png").pixels
    inside = torch.zeros(size, dtype=torch.bool)
    inside[1:6, 1:4] = True
    assert made.shape == given.pixels.shape
    assert torch.equal(made[~inside], given.pixels[~inside])
    assert ("note: the hole was painted at" in said.err) == (size != (8, 8))


@pytest.mark.parametrize("way", ["-", "/dev/stdin", "fifo"])
def test_speech_from_a_pipe(call: Call, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    tone().write("hum.wav")
    plain = call("run", "asr", "--speech", "hum.wav", "--max-tokens", "12")
    reading, writing = os.pipe()
    os.write(writing, Path("hum.wav").read_bytes())
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if way == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
        said = call(
            "run", "asr", "--max-tokens", "12",
            "--speech", "-" if way == "-" else f"/dev/fd/{reading}",
        )  # fmt: skip
    assert (said.code, said.out) == (0, plain.out)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "t2i", "a", "--trace", "folder"),
        ("run", "t2i", "a", "--out", "read-only/a.png"),
        ("run", "tts", "a", "--trace", "read-only/a.json"),
        ("eval", "mini", "--json", "folder"),
        ("eval", "mini", "--json", "read-only/a.json"),
        ("doctor", "--json", "folder"),
        ("data", "check", "a", "--json", "folder"),
        ("demo", "--out", "read-only"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    Path("folder").mkdir()
    Path("read-only").mkdir()
    real = Path.touch

    def touch(path: Path, *rest: object) -> None:
        if path.parent.name == "read-only":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path)

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr("omni_diffusion.engine.engine.Engine.run", work)
    monkeypatch.setattr("omni_diffusion.mini.evaluate.evaluate", work)
    said = call(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(
        f"error: cannot write {'folder' if 'folder' in words else 'read-only'}"
    )
    assert left() == set()


# -------------------------------------------------------------------------------------- mistakes
def corrupt_picture() -> None:
    checkers(64).write("it.png")
    Path("it.png").write_bytes(Path("it.png").read_bytes()[:200])


def huge_picture() -> None:
    PilImage.new("L", (20_000, 2)).save("it.png")


def no_bytes() -> None:
    Path("it.wav").touch()


def no_samples() -> None:
    soundfile.write("it.wav", torch.zeros(0).numpy(), 16_000)


def silence() -> None:
    Waveform(torch.full((1, 16_000), 1e-4), 16_000).write("it.wav")


def ten_minutes() -> None:
    tone(600, 8_000).write("it.wav")


def eleven_minutes() -> None:
    tone(660, 8_000).write("it.wav")


def picture() -> None:
    checkers().write("it.png")


MANIFEST = ("train", "manifest", "--out", "a", "--data")


def nothing() -> None:
    pass


SHARDING = ("data", "pretokenize", "a", "b")
SEEN = ("run", "caption", "--image", "it.png")
HEARD = ("run", "asr", "--speech", "it.wav")


@pytest.mark.parametrize(
    ("prepare", "words", "told", "fix"),
    [
        (corrupt_picture, SEEN, "it.png is not a readable image", "give PNG"),
        (huge_picture, SEEN, "it.png is 20000 x 2", "scale it"),
        (nothing, SEEN, "cannot read it.png", "check the path"),
        (no_bytes, HEARD, "it.wav is empty", "give a complete file"),
        (no_samples, HEARD, "it.wav has no samples", "some length"),
        (silence, HEARD, "it.wav is silent", "record it louder"),
        pytest.param(ten_minutes, HEARD, "lasts 600 s", "cut it", marks=pytest.mark.slow),
        pytest.param(eleven_minutes, HEARD, "too long", "cut it to 600 s", marks=pytest.mark.slow),
        (nothing, ("run", "t2i", "apple " * 20_000), "the model has 1024", "shorten it"),
        (nothing, ("run", "t2i", " "), "text is empty", "give some words"),
        (nothing, ("run", "captoin"), "no task is called 'captoin'", "did you mean caption"),
        (nothing, ("run", "xyz"), "no task is called 'xyz'", "chat, asr, tts"),
        (nothing, ("run", "t2i"), "needs text", "add text (--text)"),
        (nothing, SEEN[:2], "needs image", "(--image)"),
        (picture, (*SEEN, "--text", "a"), "takes image", "omit text (--text)"),
        (picture, (*SEEN, "--mask", "0,0,4,4"), "takes no mask", "use 'inpaint'"),
        (picture, (*SEEN, "--out", "a.png"), "answers in text", "omit it (--out)"),
        (nothing, ("run", "t2i", "a", "--out", "a.wav"), "a.wav cannot hold a", "end it in .png"),
        (nothing, ("run", "t2i", "a", "--out", "no/a.png"), "no folder no", "create it first"),
        (nothing, ("run", "t2i", "a", "--trace", "no/a.json"), "no folder no", "create it"),
        (nothing, ("run", "t2i", "a", "--confidence", "luck"), "'luck'", "entropy, margin"),
        (nothing, ("run", "t2i", "a", "--steps", "0"), "steps is 0", "1 or more"),
        (nothing, ("run", "t2i", "a", "--device", "abacus"), "'abacus'", "use cpu"),
        (nothing, ("run", "t2i", "a", "--model", "no"), "no model at no", "config.json"),
        (nothing, ("run", "t2i", "a", "--quantization", "int2"), "'int2'", "give int8 or int4"),
        (nothing, ("doctor", "--quantization", "int2"), "'int2'", "give int8 or int4"),
        (picture, ("run", "inpaint", "--image", "it.png"), "needs image", "left,top"),
        (picture, ("run", "inpaint", "--image", "it.png", "--mask", "1,2"), "'1,2'", "left,top"),
        (
            picture,
            ("run", "inpaint", "--image", "it.png", "--mask", "0,0,9,9"),
            "box 0,0,9,9",
            "inside",
        ),
        (nothing, ("run", "infill", "no gap"), "needs a text with gaps", "write _"),
        (nothing, ("demo", "--image", "it.png"), "cannot read it.png", "check the path"),
        (nothing, ("eval", "maxi"), "'maxi'", "give one of list, mini"),
        (nothing, ("eval", "mini", "--tasks", "cap"), "'cap'", "caption"),
        (nothing, ("eval", "mini", "--json", "no/a.json"), "no folder no", "create it"),
        (nothing, ("data", "import", "tulu", "a", "b"), "no corpus is called 'tulu'", "tulu-3"),
        (nothing, ("data", "import", "libritts", "a", "a"), "below a", "give the folder"),
        (nothing, ("data", "check", "no.jsonl"), "cannot read no.jsonl", "give a JSONL manifest"),
        (nothing, ("data", "check", "a", "--json", "no/a.json"), "no folder no", "create it"),
        (nothing, (*SHARDING, "--model", "no"), "no model at no", "config.json"),
        (nothing, (*MANIFEST, "b"), "cannot read b", "give a JSONL manifest"),
        (nothing, (*MANIFEST, "."), "no index", "pretokenize"),
        (nothing, (*MANIFEST, "b", "--masking", "even"), "the run.masking is 'even'", "'cosine'"),
        (nothing, (*MANIFEST, "b", "--task-weights", "t2i=x"), "'t2i=x'", "t2i=4,asr=1"),
        (nothing, (*MANIFEST, "b", "--stage", "4"), "has no stage 4", "give 1, 2 or 3"),
        (nothing, (*MANIFEST, "b", "--device", "mps"), "'mps' is not supported", "cpu or cuda"),
        (nothing, ("data", "sdvi", "a", "--synthesizer", "x"), "nothing to speak", "give --vqa"),
        (nothing, (*SPOKEN, "--synthesizer", "x"), "there is no voice", "give --voice"),
        (nothing, (*SPOKEN, "--synthesizer", "no {out}", "--voice", "a"), "'no'", "install it"),
        (nothing, (*SPOKEN, "--synthesizer", SAY, "--voice", "a"), "cannot read no.jsonl", "give"),
        (nothing, (*SPOKEN, "--synthesizer", SAY, "--voices", "v"), "cannot read v", "a line"),
        (
            nothing,
            (*SHARDING, "--ray", "auto", "--shard", "0"),
            "--ray makes all shards, --shard 0 makes one",
            "give one of them",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    call: Call, prepare: Callable[[], None], words: tuple[str, ...], told: str, fix: str
) -> None:
    prepare()
    before = left()
    said = call(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert told in said.err
    assert fix in said.err
    assert left() == before


LONG = "x" * 300
TOO_LONG = [
    ("run", "t2i", "a", "--out", f"{LONG}.png"),
    ("run", "t2i", "a", "--trace", LONG),
    ("run", "t2i", "a", "--model", LONG),
    ("run", "inpaint", "--image", "it.png", "--mask", LONG),
]
MORE_TOO_LONG = [
    ("run", "caption", "--image", LONG),
    ("run", "asr", "--speech", f"{LONG}/{LONG}"),
    ("demo", "--out", LONG),
    ("eval", "mini", "--json", LONG),
    ("doctor", "--model", LONG),
    ("doctor", "--json", LONG),
    ("convert", LONG, "a"),
    ("data", "check", LONG),
    ("data", "check", "a", "--json", LONG),
    ("data", "pretokenize", LONG, "a"),
    ("data", "import", "librispeech", LONG, "a"),
    ("data", "import", "common-voice", LONG, "a"),
    (*MANIFEST, LONG),
]


@pytest.mark.parametrize(
    "words",
    [*TOO_LONG, *(pytest.param(words, marks=pytest.mark.slow) for words in MORE_TOO_LONG)],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_name_that_is_too_long_is_one_line(call: Call, words: tuple[str, ...]) -> None:
    checkers().write("it.png")
    said = call(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert LONG[:200] in said.err
    assert left() == {"it.png"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("share", [0.5, 0.0, None])
def test_a_truncated_model_names_the_file(
    call: Call, model: Path, name: str, share: float | None
) -> None:
    shutil.copytree(model, "broken")
    whole = Path("broken", name).read_bytes()
    Path("broken", name).unlink()
    if share is not None:
        Path("broken", name).write_bytes(whole[: int(len(whole) * share)])
    said = call("run", "t2i", "a", "--model", "broken")
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert name in said.err
    assert not Path("t2i.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("run", "t2i", "a"), ("demo", "--out", "shown", "--steps", "1")])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    said = call(*words)
    assert said.code == 2
    assert said.err.endswith("No space left on device; free some space or choose another disk\n")
    assert left() == set()


def test_a_picture_is_painted_in_8_bits(call: Call) -> None:
    assert call("run", "t2i", "a dog", "--steps", "2", "--quantization", "int8").code == 0
    assert left() == {"t2i.png"}


def test_words_given_twice_are_a_usage_error(call: Call) -> None:
    said = call("run", "t2i", "a", "--text", "b")
    assert said.code == 2
    assert "give the text once" in said.err


def test_an_answer_without_its_sound_is_a_note_and_code_1(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_diffusion.tasks.read.speech_ids", lambda ids, vocabulary: ids[:0])
    tone(0.2).write("hum.wav")
    said = call("run", "sqa", "--speech", "hum.wav", "--max-tokens", "8")
    assert said.code == 1
    assert "note: the answer has no speech" in said.err
    assert left() == {"hum.wav"}


# -------------------------------------------------------------------------------- other commands
@pytest.mark.slow
def test_the_demo_takes_ones_own_inputs(call: Call) -> None:
    checkers().write("it.png")
    said = call("demo", "--out", "shown", "--steps", "1", "--image", "it.png", "--text", "a dog")
    assert said.code == 0, said.err
    made = left()
    assert {"shown/index.html", "shown/results.json", "shown/your-t2i.png"} <= made
    assert "open shown/index.html" in said.out


def test_train_hands_its_folders_to_the_recipe(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:

    given: list[tuple[Path, Path]] = []
    monkeypatch.setattr(recipe, "train", lambda out, bank: given.append((out, bank)))
    assert call("train", "mini", "--out", "runs/mini", "--bank", "runs/bank").code == 0
    assert given == [(Path("runs/mini"), Path("runs/bank"))]


def test_eval_shows_a_table_and_writes_json(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:

    asked: list[tuple[object, ...]] = []

    def evaluate(model: object, *words: object) -> dict[str, object]:
        asked.append(words[:4])
        return {"caption": {"value": 0.5, "stderr": 0.1, "n": 4, "ceiling": 1.0}}

    monkeypatch.setattr(mini_evaluate, "evaluate", evaluate)
    options = ("--seed", "3", "--samples", "4", "--tasks", "caption, vqa", "--json", "it.json")
    said = call("eval", "mini", *options)
    assert said.code == 0, said.err
    assert asked == [(3, 4, ["caption", "vqa"], None)]
    assert "50.0 %" in said.out
    assert json.loads(Path("it.json").read_text())["caption"]["n"] == 4


# ------------------------------------------------------------------------------------------ data
SOUND = {
    "messages": [
        {"role": "user", "content": "Describe the image.\n<|image|>"},
        {"role": "assistant", "content": "a dog"},
    ],
    "images": ["it.png"],
}


def test_a_manifest_without_mistakes_is_counted(call: Call) -> None:
    checkers(32).write("it.png")
    Path("train.jsonl").write_text(json.dumps(SOUND) + "\n")
    said = call("data", "check", "train.jsonl", "--json", "report.json")
    assert (said.code, said.err) == (0, "")
    for told in ("train.jsonl", "task caption", "32 x 32", "words of an answer"):
        assert told in said.out
    assert json.loads(Path("report.json").read_text())["tasks"] == {"caption": 1}


def test_each_mistake_in_a_manifest_is_a_line_and_code_1(call: Call) -> None:
    checkers(32).write("it.png")
    rows = [SOUND, SOUND | {"image": 1}, {"messages": SOUND["messages"]}]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{,}\n")
    said = call("data", "check", "train.jsonl", "--json", "report.json", "--max-problems", "2")
    assert said.code == 1
    first, second, more, *_ = said.out.splitlines()
    assert first.startswith("train.jsonl:2: the line has an unknown key 'image'; did you mean")
    assert second.startswith("train.jsonl:3: the messages hold <|image|> 1 times, 'images' has 0")
    assert more.startswith("and 1 more")
    report = json.loads(Path("report.json").read_text())
    assert [problem["line"] for problem in report["problems"]] == [2, 3, 4]
    assert (report["errors"], report["lines"], report["samples"]) == (3, 4, 1)


def test_a_corpus_is_imported_and_what_is_left_out_is_told(call: Call) -> None:
    Path("corpus").mkdir()
    Path("corpus", "1-2.trans.txt").write_text("1-2-0000 A DOG\n1-2-0001 A CAT\n")
    tone().write("corpus/1-2-0000.flac")
    said = call("data", "import", "librispeech", "corpus", "made")
    assert (said.code, said.out) == (0, "")
    wrote, note = said.err.splitlines()
    assert wrote == "wrote made/manifest.jsonl: 1 samples"
    assert note == "note: skipped 1 rows, see made/skipped.txt"
    assert call("data", "check", "made/manifest.jsonl").code == 0


@pytest.mark.skipif(bool(missing(*WHISPER_PACKAGES, *SCORING_PACKAGES)), reason="needs extra eval")
@pytest.mark.slow
def test_a_recorded_caption_is_spoken_heard_and_checked(call: Call) -> None:
    """Whisper listens to what people of the shipped bank say; a tone is no word to it."""
    (recording,) = Bank.open(BANK).sample("caption", 0, 1)
    checkers(32).write("it.png")
    rows = [
        prompts.manifest_row(
            CATALOG["t2i"], text=text, answer="<|image|>", images=["it.png"], name=name
        )
        for name, text in (("good", recording.text), ("bad", "a boat"))
    ]
    Path("t2i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data", "sdvi", "out", "--captions", "t2i.jsonl", "--voice", "a", "--synthesizer", SAY)
    said = call(*words)
    assert (said.code, said.out) == (0, "")
    assert said.err.splitlines() == [
        "synthesized 2 texts",
        "wrote out/manifest.jsonl: 1 samples",
        "note: rejected 1 samples, see out/dropped.txt",
    ]
    assert "t2i.jsonl:2: s2i-bad: question: misheard (" in Path("out/dropped.txt").read_text()
    assert f"omni-diffusion {shlex.join(words)}" in Path("out/README.md").read_text()
    assert call("data", "check", "out/manifest.jsonl").code == 0
    assert call(*words).err.splitlines()[0] == "synthesized 0 texts"
    share = call(*words, "--seed", "1", "--no-asr-check", "--shard", "1", "--of", "2")
    assert share.err.splitlines()[0] == "synthesized 1 texts"


def test_a_manifest_is_pretokenized_shard_by_shard(call: Call, model: Path) -> None:
    checkers(32).write("it.png")
    broken = SOUND | {"images": ["none.png"]}
    Path("train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (SOUND, broken, SOUND))
    )
    words = ("data", "pretokenize", "train.jsonl", "made", "--model", str(model), "--of", "2")
    said = call(*words, "--shard", "0")
    assert (said.code, said.out) == (0, "")
    assert said.err.splitlines() == [
        "1 of 2 shards in made: 2 samples, 0 skipped",
        "note: the index is written once all shards exist",
    ]
    said = call(*words)
    assert said.code == 2
    (told,) = said.err.splitlines()
    assert told.startswith("error: shard-00001-of-00002.parquet: 1 of 1 lines are broken")
    said = call(*words, "--max-bad-fraction", "1", "--batch-size", "3", "--workers", "1")
    assert said.code == 0
    left_out, made = said.err.splitlines()
    assert left_out.startswith("skipped: train.jsonl:2: cannot read none.png")
    assert made == "2 of 2 shards in made: 2 samples, 1 skipped"
    assert Path("made/index.json").exists()


@pytest.mark.slow
def test_a_model_is_trained_on_a_manifest(call: Call, model: Path) -> None:
    checkers(32).write("it.png")
    long = {
        **SOUND,
        "messages": [SOUND["messages"][0], {"role": "assistant", "content": "a " * 999}],
    }
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (SOUND, long)))
    folder = ("--model", str(model))
    assert call("data", "pretokenize", "train.jsonl", "shards", *folder).code == 0
    words = ("train", "manifest", "--out", "run", "--data", "shards", "--steps", "2", *folder)
    said = call(*words)
    assert said.code == 2
    assert "samples drawn so far are bad, more than the fraction 0.01" in said.err
    words = (*words, "--out", "other", "--max-bad-fraction", "1")
    said = call(*words)
    assert (said.code, said.out) == (0, "")
    left_out, wrote = said.err.splitlines()
    assert left_out.startswith("left out: train.jsonl:2: the sample has ")
    assert wrote == "wrote other/model"
    assert call("run", "caption", "--image", "it.png", "--model", "other/model").code == 0


@pytest.mark.parametrize(
    "words", [("run", "chat", "hi"), ("demo",), ("eval", "mini"), ("doctor",)], ids="-".join
)
def test_an_unknown_dtype_is_one_line(call: Call, words: tuple[str, ...]) -> None:
    said = call(*words, "--dtype", "int9")
    assert said.code == 2
    assert "dtype is 'int9'; give one of float32, bfloat16, float16 (--dtype)" in said.err
