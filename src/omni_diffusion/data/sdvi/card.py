"""The data set card of an SDVI set: what it holds and what it was made with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from omni_diffusion.data.sdvi.sources import Rejected, WrittenSample
from omni_diffusion.data.sdvi.utterances import Take
from omni_diffusion.data.stats import Histogram

PERCENT_EDGES = (1, 5, 10, 20, 50, 100)
LISTED_VOICES = 30  # more voices are summed up instead

LICENCE = """\
You have to decide under which licence this set may be used. Pictures and texts keep the licences
of the manifests they come from; the speech has those of the synthesizer and of its voices. A voice
cloned from a person needs that person's consent."""


@dataclass(frozen=True)
class SpokenSample:
    """A written sample with the takes of its question and answer; voice: of the question."""

    written: WrittenSample
    question: Take
    answer: Take | None
    voice: str


@dataclass(frozen=True)
class SdviRecord:
    """What a set was made with; samples and dropped are None until it is complete.

    voices: how many ask. again: further voices tried for a question. judge: the ASR model, None if
    nothing was checked. most_errors: the highest accepted word error rate.
    """

    vqa: str | None
    captions: str | None
    synthesizer: str
    voices: int
    answer_voice: str
    seed: int
    again: int
    judge: str | None
    most_errors: float
    samples: int | None = None
    dropped: int | None = None


def card(
    record: SdviRecord,
    samples: Sequence[SpokenSample],
    rejected: Sequence[Rejected],
    checked: Iterable[tuple[Take, bool]],
    command: str,
) -> str:
    """The card as Markdown.

    samples: of the set. rejected: the samples that were left out. checked: each transcribed take,
    and whether it is good. command: the command line that made the set, or empty.
    """
    answers = [sample.answer for sample in samples if sample.answer is not None]
    counts = {
        "samples": len(samples),
        "spoken questions about a picture": len(answers),
        "spoken descriptions of a picture": len(samples) - len(answers),
        "hours of questions and descriptions": f"{_hours(s.question for s in samples):.3f}",
        "hours of answers": f"{_hours(answers):.3f}",
        "distinct recordings of answers": len({take.key for take in answers}),
        "rejected samples": len(rejected),
    }
    sources = {
        "written questions": record.vqa or "none",
        "captions": record.captions or "none",
        "synthesizer": record.synthesizer,
        "voices of users": f"{len({sample.voice for sample in samples})} used of {record.voices}",
        "voice of answers": record.answer_voice,
        "seed": record.seed,
        "further voices tried": record.again,
        "ASR check": record.judge or "none",
        "highest word error rate": f"{record.most_errors:.0%}" if record.judge else "any",
    }
    voices = Counter(sample.voice for sample in samples)
    return "\n".join([
        "# Spoken questions and descriptions of pictures\n",
        "Made by omni-diffusion. The samples are in `manifest.jsonl`; `dropped.txt` lists the"
        " rejected ones, with the reason.\n",
        _table("content", "", counts),
        _table("made with", "", sources),
        *(["Command:\n", f"```sh\n{command}\n```\n"] if command else []),
        "## Rejected\n",
        _table("reason", "samples", dict(Counter(r.reason for r in rejected).most_common())),
        *(["## Word errors\n", _word_errors(checked)] if record.judge else []),
        "## Voices\n",
        _voices(voices),
        "## Licence\n",
        LICENCE,
        "",
    ])  # fmt: skip


def _hours(takes: Iterable[Take]) -> float:
    return sum(take.seconds for take in takes) / 3600


def _table(first: str, second: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {first} | {second} |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n" if rows else "None.\n"


def _cell(value: object) -> str:
    """A value escaped for a table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _word_errors(checked: Iterable[tuple[Take, bool]]) -> str:
    """Histograms of the word error rate, of good takes and of the others."""
    kept, other = Histogram(PERCENT_EDGES), Histogram(PERCENT_EDGES)
    wrong = words = 0
    for take, good in checked:
        (kept if good else other).add(100 * take.wrong / take.words)
        wrong, words = wrong + good * take.wrong, words + good * take.words
    both = Histogram(PERCENT_EDGES)
    both.counts = [one + two for one, two in zip(kept.counts, other.counts, strict=True)]
    ranges = dict(both.rows())
    passed, failed = dict(kept.all_rows()), dict(other.all_rows())
    lines = ["| word error rate, % | good takes | others |", "| --- | --- | --- |"]
    lines += [f"| {name} | {passed[name]} | {failed[name]} |" for name in ranges]
    total = f"{wrong} of {words} words of the good takes are wrong"
    return "\n".join(lines) + f"\n\n{total}{f', {wrong / words:.2%}' if words else ''}.\n"


def _voices(voices: Mapping[str, int]) -> str:
    if len(voices) <= LISTED_VOICES:
        return _table("voice", "samples", dict(sorted(voices.items())))
    counts = sorted(voices.values())
    return (
        f"{len(voices)} voices, with {counts[0]} to {counts[-1]} samples each, median"
        f" {counts[len(counts) // 2]}.\n"
    )
