"""LibriTTS: texts of read books, spoken by the model and transcribed by Whisper."""

from __future__ import annotations

from collections.abc import Sequence

from omni_diffusion.conversation import Part, Speech
from omni_diffusion.evaluation.scoring import Score, Scores, capped
from omni_diffusion.evaluation.speech import word_errors
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
)
from omni_diffusion.io import files


class LibriTTS(FileBenchmark):
    """The value is the word error rate of all words.

    Details: `capped`, at most all words of an utterance; `utterance_mean`, the mean of the rates of
    the utterances, as Seed-TTS counts.
    """

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Word errors of what Whisper hears; without speech every word is wrong."""
        speech = next((part for part in answer if isinstance(part, Speech)), None)
        heard = "" if speech is None else self.transcriber().transcribe(speech.waveform)
        errors = word_errors(sample.facts["asked"], heard)
        return {
            "value": errors,
            "capped": capped(errors),
            "utterance_mean": Score(errors.amount / errors.of, 1),
        }


def libritts_wer(entry: SuiteEntry, options: SuiteOptions) -> LibriTTS:
    """The split test-clean."""
    root = data_path(entry, options.data, "LibriTTS/test-clean", "test-clean")
    items = []
    for path in sorted(root.rglob("*.normalized.txt")):
        text = files.read_text(path).strip()
        name = path.name.removesuffix(".normalized.txt")
        items.append(Item({"id": name, "asked": text}, text=text))
    return LibriTTS(entry, options, "tts", items)
