"""The benchmarks by name: what they measure, what the data looks like and where it comes from.

Reads nothing and imports nothing heavy, so that a command line can list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from omni_diffusion.errors import EvaluationError
from omni_diffusion.io.config import nearest


@dataclass(frozen=True)
class SuiteEntry:
    """One benchmark.

    opener: module in `evaluation.suites` and the function there that makes the benchmark of
    `SuiteOptions`. setting: of `tasks.presets`. metrics: the value first. layout: what the data
    folder holds. source: where it is distributed. judges: what scores the answers, beside text
    comparison. paper: figures of the paper by metric, arXiv and ICML version.
    """

    name: str
    title: str
    opener: str
    setting: str
    metrics: tuple[str, ...]
    layout: str
    source: str
    judges: tuple[str, ...] = ()
    paper: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def open(self, options: Any) -> Any:
        """The benchmark for `suites.items.SuiteOptions`; raises EvaluationError for its data."""
        module, _, function = self.opener.partition(":")
        opened = import_module(f"omni_diffusion.evaluation.suites.{module}")
        return getattr(opened, function)(self, options)


LIBRISPEECH = "LibriSpeech/test-{}/SPEAKER/CHAPTER/*.flac with *.trans.txt"
COCO_PICTURES = "val2014/COCO_val2014_*.jpg"
OPENSLR, COCO_SITE = "https://www.openslr.org/", "https://cocodataset.org/#download"
MME_SITE = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (Evaluation)"

SUITES = (
    SuiteEntry(
        "librispeech-clean",
        "Speech recognition on LibriSpeech test-clean, word error rate",
        "librispeech:librispeech_clean",
        "librispeech",
        ("wer", "capped"),
        LIBRISPEECH.format("clean"),
        f"{OPENSLR}12 (test-clean.tar.gz)",
        paper={"wer": (7.05, 6.69)},
    ),
    SuiteEntry(
        "librispeech-other",
        "Speech recognition on LibriSpeech test-other, word error rate",
        "librispeech:librispeech_other",
        "librispeech",
        ("wer", "capped"),
        LIBRISPEECH.format("other"),
        f"{OPENSLR}12 (test-other.tar.gz)",
    ),
    SuiteEntry(
        "libritts",
        "Speech synthesis on LibriTTS test-clean, word error rate by Whisper",
        "libritts:libritts_wer",
        "libritts",
        ("wer", "capped", "utterance_mean"),
        "LibriTTS/test-clean/SPEAKER/CHAPTER/*.normalized.txt",
        f"{OPENSLR}60 (test-clean.tar.gz)",
        ("whisper",),
        {"wer": (3.07, 2.22)},
    ),
    SuiteEntry(
        "pope",
        "Objects that are or are not in a picture, yes or no (POPE)",
        "pope:pope",
        "pope",
        ("accuracy", "precision", "recall", "f1", "yes_share", "loose_accuracy"),
        f"coco_pope_random.json, _popular, _adversarial, and {COCO_PICTURES}",
        f"https://github.com/AoiDragon/POPE (output/coco), pictures at {COCO_SITE}",
        paper={"accuracy": (76.6, 76.4)},
    ),
    SuiteEntry(
        "mme",
        "Two yes-or-no questions a picture in 14 categories (MME)",
        "mme:mme",
        "mme",
        ("perception", "cognition"),
        "CATEGORY/*.jpg with *.txt, or CATEGORY/images and questions_answers_YN",
        MME_SITE,
        paper={"perception": (1216.7, 1176.1)},
    ),
    SuiteEntry(
        "seed-bench-2-plus",
        "Charts, maps and web pages, four options (SEED-Bench-2-Plus)",
        "seed_bench:seed_bench_2_plus",
        "seed-bench-2-plus",
        ("accuracy",),
        "SEED-Bench-2-plus-text-rich.json and text_rich",
        "https://huggingface.co/datasets/AILab-CVC/SEED-Bench-2-plus (unzip text_rich.zip)",
        paper={"accuracy": (34.5, 34.7)},
    ),
    SuiteEntry(
        "mmmu",
        "College-level questions of 30 subjects, validation split (MMMU)",
        "mmmu:mmmu",
        "mmmu",
        ("accuracy",),
        "SUBJECT/validation-*.parquet",
        "https://huggingface.co/datasets/MMMU/MMMU",
        paper={"accuracy": (None, 31.1)},
    ),
    SuiteEntry(
        "coco-t2i",
        "Pictures painted from COCO captions, CLIP-T and CLIP-I",
        "coco:coco_t2i",
        "coco-t2i",
        ("clip_t", "clip_i"),
        f"annotations/captions_val2014.json and {COCO_PICTURES}",
        COCO_SITE,
        ("clip",),
        {"clip_t": (0.235, 0.236), "clip_i": (0.667, 0.662)},
    ),
    SuiteEntry(
        "clip-s2i",
        "Pictures painted from spoken COCO captions, CLIP-T and CLIP-I",
        "spoken_coco:spoken_coco_s2i",
        "clip-s2i",
        ("clip_t", "clip_i"),
        f"SpokenCOCO_val.json with its wavs, and {COCO_PICTURES}",
        f"https://groups.csail.mit.edu/sls/downloads/placesaudio/ (SpokenCOCO), {COCO_SITE}",
        ("clip",),
        {"clip_t": (0.225, 0.232), "clip_i": (0.645, 0.645)},
    ),
    SuiteEntry(
        "spoken-mme",
        "The questions of MME, spoken; answered in text and in speech",
        "spoken_mme:spoken_mme",
        "spoken-mme",
        ("text", "speech", "text_cognition", "speech_cognition"),
        "MME, and spoken/CATEGORY/PICTURE-1.wav, -2.wav for its two questions",
        f"{MME_SITE}; the paper's recordings are not public, speak the questions yourself",
        ("whisper",),
        {"text": (None, 997.1), "speech": (None, 967.1)},
    ),
)
EFFICIENCY = "sampling-efficiency"
"""The name of the sweep over steps, see `suites.sampling_efficiency`."""


def suite(name: str) -> SuiteEntry:
    """The benchmark called `name`; raises EvaluationError with the nearest names."""
    known = {entry.name: entry for entry in SUITES}
    if name not in known:
        raise EvaluationError(
            f"no benchmark is called {name!r}",
            field="benchmark",
            value=name,
            fix=nearest(name, known),
        )
    return known[name]
