"""LibriSpeech: recordings of read books with their transcripts; word error rate.

Both texts pass Whisper's English normalizer first, as the paper's WER of the published script does
not say which it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_diffusion.conversation import Part, text_of
from omni_diffusion.evaluation.scoring import Scores, capped
from omni_diffusion.evaluation.speech import word_errors
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
    wrong_data,
)
from omni_diffusion.io import files


class LibriSpeech(FileBenchmark):
    """The value is the word error rate; `capped` counts at most all words of an utterance."""

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Word errors of the transcript."""
        errors = word_errors(sample.facts["expected"], text_of(answer))
        return {"value": errors, "capped": capped(errors)}


def librispeech_clean(entry: SuiteEntry, options: SuiteOptions) -> LibriSpeech:
    """The split test-clean."""
    return _librispeech(entry, options, "test-clean")


def librispeech_other(entry: SuiteEntry, options: SuiteOptions) -> LibriSpeech:
    """The split test-other."""
    return _librispeech(entry, options, "test-other")


def _librispeech(entry: SuiteEntry, options: SuiteOptions, split: str) -> LibriSpeech:
    root = data_path(entry, options.data, f"LibriSpeech/{split}", split)
    items = [item for path in sorted(root.rglob("*.trans.txt")) for item in _chapter(entry, path)]
    return LibriSpeech(entry, options, "asr", items)


def _chapter(entry: SuiteEntry, transcripts: Path) -> list[Item]:
    """The utterances of one chapter: lines of "NAME TEXT" with NAME.flac beside them."""
    items = []
    for line in filter(str.strip, files.text_lines(transcripts)):
        name, _, words = line.partition(" ")
        recording = transcripts.parent / f"{name}.flac"
        if not words or not recording.is_file():
            raise wrong_data(entry, transcripts, f"lines of NAME and TEXT with {recording.name}")
        items.append(Item({"id": name, "expected": words.lower()}, speech=recording))
    return items
