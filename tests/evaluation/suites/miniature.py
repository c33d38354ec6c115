"""Each benchmark in miniature, in the layout in which it is distributed, with its right answers."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import soundfile
import torch

from omni_diffusion.conversation import Image, Part, Speech, Text
from omni_diffusion.engine.request import Request, Result
from omni_diffusion.evaluation.suites.catalog import suite
from omni_diffusion.evaluation.suites.items import FileBenchmark, Item, SuiteOptions
from omni_diffusion.media import SPEECH_RATE, Picture, Waveform

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}
SENTENCES = ("A RED HOUSE STANDS ALONE", "THE QUICK FOX WAITS", "NOBODY HEARD HER VOICE TODAY")


def picture(color: str, side: int = 16) -> Picture:
    return Picture(torch.tensor(COLORS[color], dtype=torch.uint8).expand(side, side, 3).clone())


@cache
def png(color: str, side: int) -> bytes:
    return picture(color, side).png_bytes()


def write_picture(path: Path, color: str, side: int = 16) -> None:
    """Without waiting for the disk, as `Picture.write` does."""
    path.write_bytes(png(color, side))


def write_sound(path: Path) -> None:
    path.write_bytes(silence(path.suffix))


@cache
def silence(suffix: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, [0.5, -0.5] * 200, SPEECH_RATE, format=suffix[1:].upper())
    return out.getvalue()


def spoken(text: str) -> Waveform:
    """A sound that a test can read again: a letter a sample."""
    return Waveform(torch.tensor([[ord(letter) / 128 for letter in text]]), SPEECH_RATE)


class Reader:
    """Hears what `spoken` says."""

    version = "reader"

    def transcribe(self, waveform: Waveform) -> str:
        return "".join(chr(round(128 * sample)) for sample in waveform.samples[0].tolist())


class Deaf:
    """Hears the same in every sound."""

    version = "deaf"

    def transcribe(self, waveform: Waveform) -> str:
        return "words"


class ColorJudge:
    """A judge of pictures for tests: the mean colour, and the colour that a text names."""

    version = "colors"

    def embed_text(self, text: str) -> torch.Tensor:
        named = next(rgb for word, rgb in COLORS.items() if word in text)
        return torch.nn.functional.normalize(torch.tensor(named).float(), dim=0)

    def embed_picture(self, picture: Picture) -> torch.Tensor:
        mean = picture.pixels.float().mean((0, 1))
        return torch.nn.functional.normalize(mean, dim=0)


class Answers:
    """Answers requests in order by a list of answers."""

    def __init__(self, answers: Sequence[tuple[Part, ...]]) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    def run(self, requests: Sequence[Request]) -> list[Result]:
        first = len(self.asked)
        self.asked += requests
        return [
            Result(str(i), request.task_name, self.answers[i], None, (), 0.5, 3)
            for i, request in enumerate(requests, start=first)
        ]


def librispeech(root: Path, split: str = "test-clean") -> None:
    for chapter in range(6):
        folder = root / "LibriSpeech" / split / "61" / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for i, words in enumerate(SENTENCES):
            name = f"61-{chapter}-{i:04d}"
            write_sound(folder / f"{name}.flac")
            lines.append(f"{name} {words} {chapter}\n")
        (folder / f"61-{chapter}.trans.txt").write_text("".join(lines))


def librispeech_other(root: Path) -> None:
    librispeech(root, "test-other")


def libritts(root: Path) -> None:
    for chapter in range(6):
        folder = root / "LibriTTS" / "test-clean" / "61" / str(chapter)
        folder.mkdir(parents=True)
        for i, words in enumerate(SENTENCES):
            name = f"61_{chapter}_{i:06d}_000000"
            (folder / f"{name}.normalized.txt").write_text(f"{words.capitalize()} {chapter}.")


def pope(root: Path, pictures: int = 20) -> None:
    (root / "val2014").mkdir(parents=True)
    for i in range(pictures):
        write_picture(root / "val2014" / f"COCO_val2014_{i:012d}.png", list(COLORS)[i % 4])
    for absence in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": 2 * i + j,
                "image": f"COCO_val2014_{i:012d}.png",
                "text": f"Is there a {noun} in the image?",
                "label": label,
            }
            for i in range(pictures)
            for j, (noun, label) in enumerate((("dog", "yes"), (absence, "no")))
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"coco_pope_{absence}.json").write_text(text)


def mme(root: Path, pictures: int = 40) -> None:
    """`existence` has its texts beside the pictures, `landmark` in folders, as distributed."""
    release = root / "MME_Benchmark_release_version"
    for category, images, texts in (
        ("existence", ".", "."),
        ("landmark", "images", "questions_answers_YN"),
        ("code_reasoning", ".", "."),
    ):
        for folder in (images, texts):
            (release / category / folder).mkdir(parents=True, exist_ok=True)
        for i in range(pictures):
            write_picture(release / category / images / f"{i:04d}.png", "red")
            asked = "Is there {} here? Please answer yes or no.\t{}\n"
            lines = asked.format("one", "Yes") + asked.format("none", "No")
            (release / category / texts / f"{i:04d}.txt").write_text(lines)


def spoken_mme(root: Path) -> None:
    mme(root, pictures=10)
    for category in ("existence", "landmark", "code_reasoning"):
        folder = root / "spoken" / category
        folder.mkdir(parents=True)
        for i in range(10):
            for number in (1, 2):
                write_sound(folder / f"{i:04d}-{number}.wav")


def seed_bench(root: Path) -> None:
    (root / "text_rich").mkdir(parents=True)
    rows = []
    for i in range(80):
        write_picture(root / "text_rich" / f"{i}.png", "blue")
        choices = {f"choice_{letter}": f"{i} {letter}" for letter in "ABCD"}
        rows.append(
            {
                "question_id": str(i),
                "question": "Which?",
                "answer": "ABCD"[i % 4],
                "data_id": f"text_rich/{i}.png",
                "question_image_type": ("chart", "map", "web")[i % 3],
                **choices,
            }
        )
    (root / "SEED-Bench-2-plus-text-rich.json").write_text(json.dumps(rows))


def mmmu(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    image = {"bytes": picture("green").png_bytes(), "path": "1.png"}
    for subject in ("Art", "Physics"):
        rows = []
        for i in range(40):
            row = {
                "id": f"validation_{subject}_{i}",
                "question": "What does <image 1> show?",
                "options": "['a red one', 'a green one', 'a blue one', 'a grey one']",
                "answer": "ABCD"[i % 4],
                "question_type": "multiple-choice",
                "image_1": image,
                "image_2": image if i % 5 == 0 else None,
            }
            if i % 10 == 9:
                row |= {"options": "[]", "answer": str(i), "question_type": "open"}
            rows.append(row)
        (root / subject).mkdir(parents=True)
        table = pa.Table.from_pylist(rows)
        parquet.write_table(table, root / subject / "validation-00000-of-00001.parquet")


def coco(root: Path, side: int = 64) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    images, annotations = [], []
    for i, color in enumerate(list(COLORS) * 3):
        name = f"COCO_val2014_{i:012d}.png"
        write_picture(root / "val2014" / name, color, side)
        images.append({"id": i, "file_name": name})
        annotations += [
            {"id": 10 * i + j, "image_id": i, "caption": f"A {color} square, {j}."} for j in (1, 2)
        ]
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "captions_val2014.json").write_text(json.dumps(content))


def spoken_coco(root: Path) -> None:
    coco(root)
    data = []
    for i, color in enumerate(list(COLORS) * 3):
        wav = f"wavs/val/{i}.wav"
        (root / "wavs" / "val").mkdir(parents=True, exist_ok=True)
        write_sound(root / wav)
        caption = {"text": f"a {color} square", "speaker": "s", "uttid": f"u{i}", "wav": wav}
        data.append({"image": f"val2014/COCO_val2014_{i:012d}.png", "captions": [caption]})
    (root / "SpokenCOCO_val.json").write_text(json.dumps({"data": data}))


def said(item: Item) -> tuple[Part, ...]:
    """The right answer in text."""
    expected = item.facts["expected"]
    return (Text(expected if isinstance(expected, str) else expected[0]),)


def painted(item: Item) -> tuple[Part, ...]:
    """The right answer as a picture."""
    color = next(name for name in COLORS if name in item.facts["expected"])
    return (Image(picture(color)),)


@dataclass(frozen=True)
class Miniature:
    """A benchmark in miniature: how to write its data and its right answers, and what chance gives.

    perfect: the value of right answers. chance: the least and the greatest plausible value of the
    right answers in another order.
    """

    name: str
    write: Callable[[Path], None]
    right: Callable[[Item], tuple[Part, ...]]
    perfect: float
    chance: tuple[float, float]

    def open(self, root: Path, **changes: object) -> FileBenchmark:
        options = SuiteOptions(root, transcriber=Reader, pictures=ColorJudge)
        opened = suite(self.name).open(replace(options, **changes))  # type: ignore[arg-type]
        assert isinstance(opened, FileBenchmark)
        return opened


MINIATURES = (
    Miniature("librispeech-clean", librispeech, said, 0, (0.5, 1.2)),
    Miniature(
        "librispeech-other", lambda root: librispeech(root, "test-other"), said, 0, (0.5, 1.2)
    ),
    Miniature(
        "libritts", libritts, lambda item: (Speech(spoken(item.facts["asked"])),), 0, (0.5, 1.2)
    ),
    Miniature("pope", pope, said, 1, (0.35, 0.65)),
    Miniature("mme", mme, said, 400, (100, 200)),
    Miniature("seed-bench-2-plus", seed_bench, said, 1, (0.1, 0.42)),
    Miniature("mmmu", mmmu, said, 1, (0.1, 0.4)),
    Miniature("coco-t2i", coco, painted, 1, (0.3, 0.85)),
    Miniature("clip-s2i", spoken_coco, painted, 1, (0.3, 0.85)),
    Miniature(
        "spoken-mme",
        spoken_mme,
        lambda item: (*said(item), Speech(spoken(item.facts["expected"]))),
        400,
        (60, 240),
    ),
)
