"""Spoken MME: the questions of MME as recordings, answered in text and in speech.

The text of the answer is scored as MME scores it, and what Whisper hears in its speech likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_diffusion.conversation import Part, Speech, text_of
from omni_diffusion.evaluation.scoring import BenchmarkResult, Scores, Unit, correct
from omni_diffusion.evaluation.suites.catalog import SuiteEntry
from omni_diffusion.evaluation.suites.items import (
    FileBenchmark,
    Item,
    SuiteOptions,
    data_path,
)
from omni_diffusion.evaluation.suites.mme import (
    mme_metrics,
    mme_questions,
    points_result,
    yes_or_no,
)

SPOKEN_FOLDER = "spoken"


class SpokenMme(FileBenchmark):
    """The value is perception by the text of the answers; details: by speech, and cognition."""

    unit: Unit = "points"

    def score(self, sample: Item, answer: Sequence[Part]) -> Scores:
        """Whether the text, and what is heard in the speech, is the expected yes or no."""
        speech = next((part for part in answer if isinstance(part, Speech)), None)
        heard = "" if speech is None else self.transcriber().transcribe(speech.waveform)
        expected = sample.facts["expected"]
        return {
            "value": correct(yes_or_no(text_of(answer)) == expected),
            "speech": correct(yes_or_no(heard) == expected),
        }

    def report(self, outcomes: Sequence[tuple[Item, Scores]]) -> BenchmarkResult:
        """The sums of the categories, by text and by speech."""
        metrics = {}
        for name, prefix in (("value", "text"), ("speech", "speech")):
            sums = mme_metrics([(item.facts, bool(s[name].amount)) for item, s in outcomes])
            metrics[prefix] = sums["perception"]
            metrics[f"{prefix}_cognition"] = sums["cognition"]
        return points_result("text", metrics)


def spoken_mme(entry: SuiteEntry, options: SuiteOptions) -> SpokenMme:
    """All questions, each with its recording in spoken/CATEGORY."""
    items = []
    for facts, picture in mme_questions(entry, options.data):
        names = [f"{SPOKEN_FOLDER}/{facts['id']}{suffix}" for suffix in (".wav", ".flac")]
        recording = data_path(entry, options.data, *names)
        items.append(Item(facts, images=(picture,), speech=recording))
    return SpokenMme(entry, options, "svqa", items)
