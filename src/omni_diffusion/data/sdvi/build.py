"""Speaks what two manifests hold and writes the manifest of it: stopped anywhere, it goes on.

Every worker says the lines of its share and keeps each take (`takes`). Which takes a line is made
of follows from these alone, so whoever finds that none is missing writes the manifest, the list of
what was left out, and the card.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from json import dumps
from pathlib import Path
from typing import Any

from omni_diffusion.data.importers.importer import Shelf
from omni_diffusion.data.manifest import AUDIO, IMAGE
from omni_diffusion.data.sdvi.card import card
from omni_diffusion.data.sdvi.quality_filter import Flaw, Gate, Judge, Transcribe, listened
from omni_diffusion.data.sdvi.sources import Left, Line, Sources
from omni_diffusion.data.sdvi.synthesizer import Mute, Speak, Synthesizer, content, say, tidy
from omni_diffusion.data.sdvi.utterances import Take, Takes, key_of
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config, files
from omni_diffusion.media import Waveform
from omni_diffusion.tasks import prompts
from omni_diffusion.tasks.catalog import CATALOG

MANIFEST, LEFT, CARD, RECORD = "manifest.jsonl", "dropped.txt", "README.md", "sdvi.json"
IN_A_ROW = 20  # failures that end a run: it is the synthesizer then, and not the texts


@dataclass(frozen=True)
class Voices:
    """Who speaks: the questions one of `asking` each, drawn by (seed, name); all answers one voice.

    again: how many further voices say a question whose take was not good enough.
    """

    asking: Sequence[str]
    answering: str
    seed: int = 0
    again: int = 2

    def __post_init__(self) -> None:
        if not self.asking or not all([*self.asking, self.answering]):
            raise DataError("there is no voice, or one without a name; give at least one")
        twice = {voice for voice in self.asking if self.asking.count(voice) > 1}
        if twice:
            raise DataError(f"the voice {min(twice)!r} is given twice; keep one")
        if self.again < 0:
            raise DataError(f"again is {self.again}; give 0 or more further voices")

    def of(self, name: str) -> list[str]:
        """The voices that a question may be said in, the first one first.

        Each voice has a number of its own for each question and the lowest are taken: a voice more
        changes only the questions that it now says itself, and their order says nothing.
        """

        def number(voice: str) -> bytes:
            told = repr((self.seed, name, voice)).encode("utf-8", "surrogatepass")
            return blake2b(told, digest_size=8).digest()

        return heapq.nsmallest(1 + self.again, self.asking, key=number)


@dataclass(frozen=True)
class Wanted:
    """A take that is missing."""

    text: str
    voice: str
    key: str


@dataclass(frozen=True)
class Good:
    """A take that is good, and what it was wanted for."""

    take: Take
    wanted: Wanted


@dataclass(frozen=True)
class Spoken:
    """A line that is whole: the takes of question and answer, and whose voice asked."""

    line: Line
    question: Take
    answer: Take | None
    voice: str


@dataclass(frozen=True)
class Record:
    """What a folder was filled with; the counts are None until all is done."""

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


@dataclass
class Outcome:
    """What a run did: takes made now, lines that are whole and left out, lines still to be said."""

    made: int = 0
    samples: int = 0
    left: list[Left] = field(default_factory=list)
    missing: int = 0


@dataclass(frozen=True)
class Builder:
    """Makes one data set.

    retry: say again what the synthesizer failed at in an earlier run. command: what the card says
    the set was made with.
    """

    sources: Sources
    out: Path
    synthesizer: Synthesizer
    voices: Voices
    judge: Judge | None = None
    gate: Gate = field(default_factory=Gate)
    retry: bool = False
    command: str = ""

    def run(
        self,
        shard: int | None = None,
        of: int = 1,
        workers: int = 1,
        progress: Callable[[float], None] | None = None,
    ) -> Outcome:
        """Say one share of the lines, or all, and finish the set if none is missing then.

        Share i of n holds the lines i, i + n, .. workers: threads, each with a synthesizer and a
        judge of its own. progress: called with the share of lines that are done. Raises DataError
        for a broken manifest, a folder with other files, and a synthesizer that fails again and
        again; StorageError when a file cannot be written.
        """
        if of < 1 or not 0 <= (shard or 0) < of:
            raise DataError(f"there is no share {shard} of {of}; give 0 to {of - 1}")
        if workers < 1:
            raise DataError(f"{workers} workers; give 1 or more")
        found = list(self.sources.lines())
        lines = [each for each in found if isinstance(each, Line)]
        begin(self.out, self._record())
        takes = Takes(self.out, "all" if shard is None else f"{shard:05d}-of-{of:05d}")
        work = Work(self, takes)
        pending = [
            line
            for number, line in enumerate(lines)
            if (shard is None or number % of == shard) and isinstance(work.verdict(line), Wanted)
        ]
        if pending:  # the old manifest would name sounds that are no more
            for name in (MANIFEST, CARD, LEFT):
                files.remove(self.out / name)
        work.do(pending, workers, progress)
        return self._finish(work, found)

    def _record(self, samples: int | None = None, dropped: int | None = None) -> Record:
        sources, voices = self.sources, self.voices
        return Record(
            vqa=None if sources.vqa is None else str(sources.vqa),
            captions=None if sources.captions is None else str(sources.captions),
            synthesizer=self.synthesizer.line,
            voices=len(voices.asking),
            answer_voice=voices.answering,
            seed=voices.seed,
            again=voices.again,
            judge=None if self.judge is None else self.judge.name,
            most_errors=self.gate.most_errors,
            samples=samples,
            dropped=dropped,
        )

    def _finish(self, work: Work, found: Sequence[Line | Left]) -> Outcome:
        """Write all that is for reading, where nothing is missing."""
        work.takes.refresh()
        work.retry.clear()
        verdicts = list(_without_twins(map(work.verdict, found)))
        whole = [each for each in verdicts if isinstance(each, Spoken)]
        left = [each for each in verdicts if isinstance(each, Left)]
        outcome = Outcome(work.made, len(whole), left, len(verdicts) - len(whole) - len(left))
        if outcome.missing:
            return outcome
        files.write_text(self.out / LEFT, "".join(f"{each}\n" for each in left))
        with files.atomic_path(self.out / MANIFEST) as path, path.open("w", encoding="utf-8") as f:
            for each in whole:
                f.write(dumps(self._row(each, work.takes), ensure_ascii=False) + "\n")
        record = self._record(len(whole), len(left))
        told = card(record, whole, left, work.heard(found), self.command)
        files.write_text(self.out / CARD, told)
        config.save(record, self.out / RECORD)
        used = [take.key for each in whole for take in (each.question, each.answer) if take]
        work.takes.sweep(used)
        return outcome

    def _row(self, spoken: Spoken, takes: Takes) -> dict[str, Any]:
        line = spoken.line
        task = CATALOG["s2i" if line.answer is None else "svqa"]
        said = [take for take in (spoken.question, spoken.answer) if take is not None]
        return prompts.row(
            task,
            answer=IMAGE if line.answer is None else f"{line.answer}\n{AUDIO}",
            audios=[takes.path(take.key).relative_to(self.out).as_posix() for take in said],
            images=[Shelf(self.out, "").leave(line.picture)],
            name=line.name,
        )


class Work:
    """The lines of a share and what became of each; used by several threads."""

    def __init__(self, builder: Builder, takes: Takes) -> None:
        self.takes, self.made = takes, 0
        self.retry = takes.failures() if builder.retry else set[str]()
        self._builder = builder
        self._drawn = cache(builder.voices.of)  # a thousand voices take a millisecond
        self._own = threading.local()
        self._lock = threading.Lock()
        self._locks: Mapping[str, threading.Lock] = defaultdict(threading.Lock)
        self._failing: list[Take] = []
        names = dict.fromkeys([*builder.voices.asking, builder.voices.answering])
        self._voices = {name: name + content(name) for name in names}

    def verdict(self, line: Line | Left) -> Spoken | Left | Wanted:
        """What a line is, by the takes there are."""
        if isinstance(line, Left):
            return line
        question = self._best(line, "question")
        if not isinstance(question, Good):
            return question
        answer = None if line.answer is None else self._best(line, "answer")
        if isinstance(answer, Left | Wanted):
            return answer
        for each in (question, answer):
            # asked last: what a line that is left out was made of is not kept
            if each is not None and not self.takes.path(each.take.key).exists():
                return each.wanted
        return Spoken(line, question.take, answer.take if answer else None, question.wanted.voice)

    def heard(self, found: Sequence[Line | Left]) -> Iterator[tuple[Take, bool]]:
        """All takes of the lines that someone listened to, and whether each is good; none twice."""
        seen = set[str]()
        for line in found:
            if isinstance(line, Left):
                continue
            for what in ("question", "answer"):
                for wanted in self._candidates(line, what):
                    take = self.takes.get(wanted.key)
                    if take is None or take.key in seen or take.judge != self._judge:
                        continue
                    seen.add(take.key)
                    if take.judge is not None and take.words:
                        yield take, self._flaw(take) is None

    def do(
        self, lines: Sequence[Line], workers: int, progress: Callable[[float], None] | None
    ) -> None:
        """Make all takes that these lines want."""
        pool = ThreadPoolExecutor(workers)
        try:
            running = [pool.submit(self._finish, line) for line in lines]
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if progress is not None:
                    progress(done / len(lines))
        finally:
            pool.shutdown(cancel_futures=True)
        for take in self._failing:
            self.takes.add(take, None)

    @property
    def _judge(self) -> str | None:
        judge = self._builder.judge
        return None if judge is None else judge.name

    def _finish(self, line: Line) -> None:
        while isinstance(wanted := self.verdict(line), Wanted):
            with self._lock:
                own = self._locks[wanted.key]
            with own:  # two lines may have the same answer
                if self.verdict(line) == wanted:
                    self._make(wanted)

    def _candidates(self, line: Line, what: str) -> list[Wanted]:
        """The takes that may become a line's question or answer, the first one first."""
        voices = self._builder.voices
        text = tidy((line.question if what == "question" else line.answer) or "")
        if not text:
            return []
        names = self._drawn(line.name) if what == "question" else [voices.answering]
        digest = self._builder.synthesizer.digest
        return [Wanted(text, name, key_of(digest, text, self._voices[name])) for name in names]

    def _best(self, line: Line, what: str) -> Good | Left | Wanted:
        """The first good take, whether or not its sound is there."""
        flaws: list[Flaw] = []
        for wanted in self._candidates(line, what):
            state = self._state(wanted)
            if isinstance(state, Wanted):
                return state
            if isinstance(state, Take):
                return Good(state, wanted)
            flaws.append(state)
        more = f"; {len(flaws)} voices" if len(flaws) > 1 else ""
        reason = f"{what}: {flaws[-1].reason}"
        return Left(line.name, line.place, reason, flaws[-1].detail + more)

    def _state(self, wanted: Wanted) -> Take | Flaw | Wanted:
        """A good take, what is wrong with it, or that it has to be made or heard."""
        take = self.takes.get(wanted.key)
        if take is None or take.key in self.retry:
            return wanted
        unheard = self._judge is not None and take.judge != self._judge
        if unheard and self._builder.gate.of_sound(take) is None:
            return wanted
        return self._flaw(take) or take

    def _flaw(self, take: Take) -> Flaw | None:
        gate = self._builder.gate
        return gate.of_sound(take) or (gate.of_words(take) if self._judge is not None else None)

    def _make(self, wanted: Wanted) -> None:
        wave = self._kept(wanted)
        if wave is None:
            try:
                wave = say(self._speak(), wanted.text, wanted.voice)
            except Mute as error:
                self._fail(Take(wanted.key, failed=str(error)))
                return
            self._succeed()
        samples = wave.samples
        loudness = float(samples.square().mean().sqrt()) if samples.numel() else 0.0
        take = Take(wanted.key, round(wave.seconds, 3), float(f"{loudness:.3g}"))
        judge = self._builder.judge
        if judge is not None and self._builder.gate.of_sound(take) is None:
            take = listened(take, wanted.text, wave, judge, self._hear(judge))
        self.takes.add(take, wave if self._flaw(take) is None else None)
        self.retry.discard(wanted.key)

    def _kept(self, wanted: Wanted) -> Waveform | None:
        """A sound that is there and only has to be heard."""
        take, path = self.takes.get(wanted.key), self.takes.path(wanted.key)
        if take is None or take.failed is not None or not path.exists():
            return None
        try:
            return Waveform.read(path)
        except MediaError:
            return None

    def _fail(self, take: Take) -> None:
        """Note a failure; it is kept once others succeed, for else it is not the text's."""
        self.takes.note(take)
        if take.key in self.retry:
            self.retry.discard(take.key)
            self.takes.add(take, None)
            return
        with self._lock:
            self._failing.append(take)
            if len(self._failing) < IN_A_ROW:
                return
        raise DataError(
            f"--synthesizer {self._builder.synthesizer.line!r} failed {IN_A_ROW} times in a row;"
            f" mend it; the last time: {take.failed}"
        )

    def _succeed(self) -> None:
        with self._lock:
            self.made += 1
            failed, self._failing = self._failing, []
        for take in failed:
            self.takes.add(take, None)

    def _speak(self) -> Speak:
        if not hasattr(self._own, "speak"):
            self._own.speak = self._builder.synthesizer.open()
        speak: Speak = self._own.speak
        return speak

    def _hear(self, judge: Judge) -> Transcribe:
        if not hasattr(self._own, "hear"):
            self._own.hear = judge.open()
        hear: Transcribe = self._own.hear
        return hear


def voices_of(path: Path) -> list[str]:
    """The names in a file, one a line; raises DataError where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({error}); give one voice a line") from error
    return [line.strip() for line in lines if line.strip()]


def begin(out: Path, record: Record) -> None:
    """Put a record into a folder; raises DataError where it holds files of something else."""
    files.make_folder(out)
    path = out / RECORD
    others = [each for each in out.iterdir() if not each.name.startswith(".")]
    if others and not path.exists():
        raise DataError(f"{out} holds other files; give an empty folder or a new one")
    if not path.exists():
        config.save(record, path)


def _without_twins(verdicts: Iterator[Spoken | Left | Wanted]) -> Iterator[Spoken | Left | Wanted]:
    """Two lines of one question, answer, picture and voice are one."""
    seen = set[tuple[str, str | None, str]]()
    for each in verdicts:
        if isinstance(each, Spoken):
            told = (each.question.key, each.line.answer, str(each.line.picture.resolve()))
            if told in seen:
                yield Left(each.line.name, each.line.place, "the same as an earlier line")
                continue
            seen.add(told)
        yield each
