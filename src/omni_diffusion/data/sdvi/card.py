"""The card of a spoken data set: what is in it and what it was made with. Knows no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from omni_diffusion.data.stats import Histogram

if TYPE_CHECKING:
    from omni_diffusion.data.sdvi.build import Record, Spoken
    from omni_diffusion.data.sdvi.sources import Left
    from omni_diffusion.data.sdvi.utterances import Take

PERCENT = (1, 5, 10, 20, 50, 100)
VOICES = 30  # voices that are listed one by one

LICENCE = """\
Nobody but you can say under which licence this set may be used. The pictures and their words keep
the licences of the manifests they come from; the speech has those of the synthesizer and of its
voices. A voice that was cloned from a person needs that person's consent."""


def card(
    record: Record,
    whole: Sequence[Spoken],
    left: Sequence[Left],
    heard: Iterable[tuple[Take, bool]],
    command: str,
) -> str:
    """The card as Markdown.

    whole, left: the lines of the set, and those left out. heard: each take that someone listened
    to, and whether it was good.
    """
    answers = {each.answer.key: each.answer for each in whole if each.answer is not None}
    said = [each.answer for each in whole if each.answer is not None]
    counts = {
        "lines": len(whole),
        "of them spoken questions about a picture": len(said),
        "of them spoken descriptions of a picture": len(whole) - len(said),
        "hours heard (what users say)": f"{_hours([each.question for each in whole]):.3f}",
        "hours said (answers)": f"{_hours(said):.3f}",
        "different recordings of answers": len(answers),
        "written lines left out": len(left),
    }
    made = {
        "written questions": record.vqa or "none",
        "captions": record.captions or "none",
        "synthesizer": record.synthesizer,
        "voices of users": f"{len({each.voice for each in whole})} used of {record.voices}",
        "voice of answers": record.answer_voice,
        "seed": record.seed,
        "further voices tried": record.again,
        "recogniser": record.judge or "none, nobody listened",
        "word errors allowed": f"{record.most_errors:.0%} of a text" if record.judge else "any",
    }
    voices = Counter(each.voice for each in whole)
    return "\n".join([
        "# Spoken questions and descriptions of pictures\n",
        "Made by omni-diffusion. The lines are in `manifest.jsonl`, what was left out and why in"
        " `dropped.txt`.\n",
        _table("what", "how many", counts),
        _table("made of", "", made),
        *(["Command:\n", f"```sh\n{command}\n```\n"] if command else []),
        "## Left out\n",
        _table("reason", "lines", dict(Counter(each.reason for each in left).most_common())),
        *(["## Word errors\n", _errors(heard)] if record.judge else []),
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
    """A value that does not end its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _errors(heard: Iterable[tuple[Take, bool]]) -> str:
    """How many takes have which share of word errors, the good ones and the others."""
    kept, other = Histogram(PERCENT), Histogram(PERCENT)
    wrong = words = 0
    for take, good in heard:
        (kept if good else other).add(100 * take.wrong / take.words)
        wrong, words = wrong + good * take.wrong, words + good * take.words
    both = Histogram(PERCENT)
    both.counts = [one + two for one, two in zip(kept.counts, other.counts, strict=True)]
    ranges = dict(both.rows())
    passed, failed = dict(kept.all_rows()), dict(other.all_rows())
    lines = ["| word errors, % | good takes | others |", "| --- | --- | --- |"]
    lines += [f"| {name} | {passed[name]} | {failed[name]} |" for name in ranges]
    total = f"{wrong} of {words} words of the good takes are wrong"
    return "\n".join(lines) + f"\n\n{total}{f', {wrong / words:.2%}' if words else ''}.\n"


def _voices(voices: Mapping[str, int]) -> str:
    if len(voices) <= VOICES:
        return _table("voice", "lines", dict(sorted(voices.items())))
    counts = sorted(voices.values())
    return (
        f"{len(voices)} voices ask, in {counts[0]} to {counts[-1]} lines each, half of them in"
        f" {counts[len(counts) // 2]} or more.\n"
    )
