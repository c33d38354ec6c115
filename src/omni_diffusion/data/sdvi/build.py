"""Build an SDVI set: synthesize what two manifests hold and write a manifest of it; resumable.

Each worker makes the takes of its shard of the samples and stores them (`utterances`). The stored
takes alone decide what a sample becomes, so whoever finds that none is missing writes the manifest,
the list of rejected samples, and the card.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from json import dumps
from pathlib import Path
from typing import Any, Literal, TypeAlias

from omni_diffusion.data.defaults import VOICE_RETRIES
from omni_diffusion.data.importers.importer import MediaFolder
from omni_diffusion.data.manifest import MANIFEST
from omni_diffusion.data.sdvi.card import SdviRecord, SpokenSample, card
from omni_diffusion.data.sdvi.quality_filter import (
    AsrJudge,
    Defect,
    QualityFilter,
    Transcribe,
    transcribed,
)
from omni_diffusion.data.sdvi.sources import Rejected, Sources, WrittenSample
from omni_diffusion.data.sdvi.synthesizer import (
    Speak,
    SpeechSynthesizer,
    SynthesisError,
    file_digest,
    one_line,
    synthesize_text,
)
from omni_diffusion.data.sdvi.utterances import Take, TakeStore, take_key
from omni_diffusion.errors import DataError, MediaError
from omni_diffusion.io import config, files
from omni_diffusion.media import Waveform
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.prompts import AUDIO_TAG, IMAGE_TAG, manifest_row

REJECTED, CARD, SDVI_RECORD = "dropped.txt", "README.md", "sdvi.json"
MAX_FAILURES = 20  # in a row; then the synthesizer is at fault, and not the texts


@dataclass(frozen=True)
class VoicePool:
    """The voices of a set.

    asking: one of them asks each question, drawn by (seed, name of the sample). answering: gives
    all answers. retries: further voices for a question that the quality filter rejects.
    """

    asking: Sequence[str]
    answering: str
    seed: int = 0
    retries: int = VOICE_RETRIES

    def __post_init__(self) -> None:
        if not self.asking or not all([*self.asking, self.answering]):
            raise DataError(
                "there is no voice, or one without a name",
                field="voice",
                value=self.asking,
                fix="give at least one",
            )
        repeated = {voice for voice in self.asking if self.asking.count(voice) > 1}
        if repeated:
            raise DataError(
                f"the voice {min(repeated)!r} is given twice",
                field="voice",
                value=min(repeated),
                fix="keep one",
            )
        if self.retries < 0:
            raise DataError(
                f"{self.retries} retries",
                field="voice_retries",
                value=self.retries,
                fix="give 0 or more",
            )

    def for_question(self, name: str) -> list[str]:
        """The voices to try for a question, in order.

        Each voice has a hash for each question, and the lowest are taken. So a new voice changes
        only the questions that it takes over, and the order of the voices does not matter.
        """

        def rank(voice: str) -> bytes:
            content = repr((self.seed, name, voice)).encode("utf-8", "surrogatepass")
            return blake2b(content, digest_size=8).digest()

        return heapq.nsmallest(1 + self.retries, self.asking, key=rank)


@dataclass(frozen=True)
class TakeRequest:
    """A text to synthesize in a voice; key: of its take."""

    text: str
    voice: str
    key: str


@dataclass(frozen=True)
class GoodTake:
    """A take that passes the quality filter."""

    take: Take
    request: TakeRequest


Verdict: TypeAlias = SpokenSample | Rejected | TakeRequest
"""What a sample is by the stored takes: complete, left out, or waiting for a take."""


@dataclass
class BuildResult:
    """The outcome of a run.

    made: takes synthesized now. samples, rejected: of the whole set. missing: samples that other
    shards still have to make.
    """

    made: int = 0
    samples: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    missing: int = 0


@dataclass(frozen=True)
class SdviBuilder:
    """Builds one SDVI set in the folder `out`.

    judge: checks the recordings; None accepts what is spoken. retry: synthesize again what failed
    in an earlier run. command: the command line, for the card.
    """

    sources: Sources
    out: Path
    synthesizer: SpeechSynthesizer
    voices: VoicePool
    judge: AsrJudge | None = None
    quality: QualityFilter = field(default_factory=QualityFilter)
    retry: bool = False
    command: str = ""

    def run(
        self,
        shard: int | None = None,
        of: int = 1,
        workers: int = 1,
        progress: Callable[[float], None] | None = None,
    ) -> BuildResult:
        """Make the takes of one shard of the samples, or of all, and finish a complete set.

        Shard i of n holds the samples i, i + n, ... workers: threads, each with a synthesizer and
        an ASR model of its own. progress: called with the fraction of samples that are done. Raises
        DataError for a broken manifest, a folder with other files, and a synthesizer that keeps
        failing; StorageError if a file cannot be written or another process makes this shard.
        """
        if of < 1 or not 0 <= (shard or 0) < of:
            raise DataError(
                f"shard {shard} of {of} does not exist",
                field="shard",
                value=shard,
                fix=f"give 0 to {of - 1}",
            )
        if workers < 1:
            raise DataError(
                f"{workers} workers", field="workers", value=workers, fix="give 1 or more"
            )
        samples = list(self.sources.samples())
        count = sum(isinstance(sample, WrittenSample) for sample in samples)
        numbers = range(count) if shard is None else range(shard, count, of)
        open_folder(self.out, self._record())
        name = "all" if shard is None else f"{shard:05d}-of-{of:05d}"
        with files.exclusive(self.out, self.out / f".{name}{files.LOCK_FILE}"):
            return self._build(samples, name, numbers, workers, progress)

    def _build(
        self,
        samples: Sequence[WrittenSample | Rejected],
        journal: str,
        numbers: Iterable[int],
        workers: int,
        progress: Callable[[float], None] | None,
    ) -> BuildResult:
        """Make the takes of the written samples of these numbers, and finish a complete set."""
        written = [sample for sample in samples if isinstance(sample, WrittenSample)]
        session = BuildSession(self, TakeStore(self.out, journal))
        pending = [
            written[number]
            for number in numbers
            if isinstance(session.verdict(written[number]), TakeRequest)
        ]
        if pending:  # the old manifest would name recordings that no longer exist
            for name in (MANIFEST, CARD, REJECTED):
                files.remove(self.out / name)
        session.make_all(pending, workers, progress)
        return self._finish(session, samples)

    def _record(self, samples: int | None = None, dropped: int | None = None) -> SdviRecord:
        sources, voices = self.sources, self.voices
        return SdviRecord(
            vqa=None if sources.vqa is None else str(sources.vqa),
            captions=None if sources.captions is None else str(sources.captions),
            synthesizer=self.synthesizer.line,
            voices=len(voices.asking),
            answer_voice=voices.answering,
            seed=voices.seed,
            again=voices.retries,
            judge=None if self.judge is None else self.judge.name,
            most_errors=self.quality.max_wer,
            samples=samples,
            dropped=dropped,
        )

    def _finish(
        self, session: BuildSession, samples: Sequence[WrittenSample | Rejected]
    ) -> BuildResult:
        """Write manifest, rejected samples and card, unless a take is missing."""
        session.takes.refresh()
        session.retry.clear()
        verdicts = list(_without_duplicates(map(session.verdict, samples)))
        spoken = [each for each in verdicts if isinstance(each, SpokenSample)]
        rejected = [each for each in verdicts if isinstance(each, Rejected)]
        missing = len(verdicts) - len(spoken) - len(rejected)
        result = BuildResult(session.made, len(spoken), rejected, missing)
        if missing:
            return result
        files.write_text(self.out / REJECTED, "".join(f"{each}\n" for each in rejected))
        with files.atomic_path(self.out / MANIFEST) as path, path.open("w", encoding="utf-8") as f:
            for sample in spoken:
                f.write(dumps(self._row(sample, session.takes), ensure_ascii=False) + "\n")
        record = self._record(len(spoken), len(rejected))
        checked = session.checked(samples)
        files.write_text(self.out / CARD, card(record, spoken, rejected, checked, self.command))
        config.save(record, self.out / SDVI_RECORD)
        used = [take.key for each in spoken for take in (each.question, each.answer) if take]
        session.takes.sweep(used)
        return result

    def _row(self, sample: SpokenSample, takes: TakeStore) -> dict[str, Any]:
        written = sample.written
        used = [take for take in (sample.question, sample.answer) if take is not None]
        return manifest_row(
            CATALOG["s2i" if written.answer is None else "svqa"],
            answer=IMAGE_TAG if written.answer is None else f"{written.answer}\n{AUDIO_TAG}",
            audios=[takes.path(take.key).relative_to(self.out).as_posix() for take in used],
            images=[MediaFolder(self.out, "").reference(written.picture)],
            name=written.name,
        )


class BuildSession:
    """One run of a builder: makes missing takes and judges samples; used by several threads."""

    def __init__(self, builder: SdviBuilder, takes: TakeStore) -> None:
        self.takes, self.made = takes, 0
        self.retry = takes.failures() if builder.retry else set[str]()
        self._builder = builder
        # cached: ranking a thousand voices takes a millisecond
        self._voices_for = cache(builder.voices.for_question)
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._locks: Mapping[str, threading.Lock] = defaultdict(threading.Lock)
        self._failing: list[Take] = []
        names = dict.fromkeys([*builder.voices.asking, builder.voices.answering])
        self._voice_ids = {name: name + file_digest(name) for name in names}

    def verdict(self, sample: WrittenSample | Rejected) -> Verdict:
        """What a sample is by the stored takes."""
        if isinstance(sample, Rejected):
            return sample
        question = self._best(sample, "question")
        if not isinstance(question, GoodTake):
            return question
        answer = None if sample.answer is None else self._best(sample, "answer")
        if isinstance(answer, Rejected | TakeRequest):
            return answer
        for good in (question, answer):
            # checked last: rejected samples do not keep their recordings
            if good is not None and not self.takes.path(good.take.key).exists():
                return good.request
        voice = question.request.voice
        return SpokenSample(sample, question.take, answer.take if answer else None, voice)

    def checked(self, samples: Sequence[WrittenSample | Rejected]) -> Iterator[tuple[Take, bool]]:
        """All transcribed takes of the samples, each once, with whether it is good."""
        seen = set[str]()
        for sample in samples:
            if isinstance(sample, Rejected):
                continue
            requests = [*self._candidates(sample, "question"), *self._candidates(sample, "answer")]
            for request in requests:
                take = self.takes.get(request.key)
                if take is None or take.key in seen or take.judge != self._judge:
                    continue
                seen.add(take.key)
                if take.judge is not None and take.words:
                    yield take, self._defect(take) is None

    def make_all(
        self,
        samples: Sequence[WrittenSample],
        workers: int,
        progress: Callable[[float], None] | None,
    ) -> None:
        """Make all takes that these samples need."""
        pool = ThreadPoolExecutor(workers)
        try:
            running = [pool.submit(self._make_takes, sample) for sample in samples]
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                if progress is not None:
                    progress(done / len(samples))
        finally:
            pool.shutdown(cancel_futures=True)
        for take in self._failing:
            self.takes.add(take, None)

    @property
    def _judge(self) -> str | None:
        judge = self._builder.judge
        return None if judge is None else judge.name

    def _make_takes(self, sample: WrittenSample) -> None:
        while isinstance(request := self.verdict(sample), TakeRequest):
            with self._lock:
                lock = self._locks[request.key]
            with lock:  # another sample may have the same answer
                if self.verdict(sample) == request:
                    self._make(request)

    def _candidates(
        self, sample: WrittenSample, role: Literal["question", "answer"]
    ) -> list[TakeRequest]:
        """The takes that may become a sample's question or answer, in order."""
        text = one_line((sample.question if role == "question" else sample.answer) or "")
        if not text:
            return []
        digest, voices = self._builder.synthesizer.digest, [self._builder.voices.answering]
        if role == "question":
            voices = self._voices_for(sample.name)
        return [
            TakeRequest(text, voice, take_key(digest, text, self._voice_ids[voice]))
            for voice in voices
        ]

    def _best(
        self, sample: WrittenSample, role: Literal["question", "answer"]
    ) -> GoodTake | Rejected | TakeRequest:
        """The first good take, whether its recording exists or not."""
        defects: list[Defect] = []
        for request in self._candidates(sample, role):
            state = self._take_or_defect(request)
            if isinstance(state, TakeRequest):
                return state
            if isinstance(state, Take):
                return GoodTake(state, request)
            defects.append(state)
        tried = f"; {len(defects)} voices" if len(defects) > 1 else ""
        reason = f"{role}: {defects[-1].reason}"
        return Rejected(sample.name, sample.source, reason, defects[-1].detail + tried)

    def _take_or_defect(self, request: TakeRequest) -> Take | Defect | TakeRequest:
        """A good take, its defect, or the request if it has to be made or transcribed."""
        take = self.takes.get(request.key)
        if take is None or take.key in self.retry:
            return request
        unchecked = self._judge is not None and take.judge != self._judge
        if unchecked and self._builder.quality.sound_defect(take) is None:
            return request
        return self._defect(take) or take

    def _defect(self, take: Take) -> Defect | None:
        quality = self._builder.quality
        checked = self._judge is not None
        return quality.sound_defect(take) or (quality.word_defect(take) if checked else None)

    def _make(self, request: TakeRequest) -> None:
        wave = self._recorded(request)
        if wave is None:
            try:
                wave = synthesize_text(self._speak(), request.text, request.voice)
            except SynthesisError as error:
                self._fail(Take(request.key, failed=str(error)))
                return
            self._succeed()
        samples = wave.samples
        loudness = float(samples.square().mean().sqrt()) if samples.numel() else 0.0
        take = Take(request.key, round(wave.seconds, 3), float(f"{loudness:.3g}"))
        judge = self._builder.judge
        if judge is not None and self._builder.quality.sound_defect(take) is None:
            take = transcribed(take, request.text, wave, judge, self._transcribe(judge))
        self.takes.add(take, wave if self._defect(take) is None else None)
        self.retry.discard(request.key)

    def _recorded(self, request: TakeRequest) -> Waveform | None:
        """A recording that exists and only needs a transcript."""
        take, path = self.takes.get(request.key), self.takes.path(request.key)
        if take is None or take.failed is not None or not path.exists():
            return None
        try:
            return Waveform.read(path)
        except MediaError:
            return None

    def _fail(self, take: Take) -> None:
        """Keep a failure in memory; the next success shows that the text caused it."""
        self.takes.remember(take)
        if take.key in self.retry:
            self.retry.discard(take.key)
            self.takes.add(take, None)
            return
        with self._lock:
            self._failing.append(take)
            if len(self._failing) < MAX_FAILURES:
                return
        line = self._builder.synthesizer.line
        raise DataError(
            f"the synthesizer {line!r} failed {MAX_FAILURES} times in a row, at last with:"
            f" {take.failed}",
            field="synthesizer",
            value=line,
            fix="repair it",
        )

    def _succeed(self) -> None:
        with self._lock:
            self.made += 1
            failed, self._failing = self._failing, []
        for take in failed:
            self.takes.add(take, None)

    def _speak(self) -> Speak:
        if not hasattr(self._thread, "speak"):
            self._thread.speak = self._builder.synthesizer.open()
        speak: Speak = self._thread.speak
        return speak

    def _transcribe(self, judge: AsrJudge) -> Transcribe:
        if not hasattr(self._thread, "transcribe"):
            self._thread.transcribe = judge.open()
        transcribe: Transcribe = self._thread.transcribe
        return transcribe


def read_voices(path: Path) -> list[str]:
    """The voices in a file, one a line; raises DataError if it cannot be read."""
    try:
        lines = list(files.text_lines(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path} ({error})", field="voices", value=path, fix="give one voice a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def open_folder(out: Path, record: SdviRecord) -> None:
    """Make the folder of a set, with its record; raises DataError if it holds other files."""
    files.make_folder(out)
    path = out / SDVI_RECORD
    others = [each for each in out.iterdir() if not each.name.startswith(".")]
    if others and not path.exists():
        raise DataError(
            f"{out} holds other files", value=out, fix="give an empty folder or a new one"
        )
    if not path.exists():
        config.save(record, path)


def _without_duplicates(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    """Reject samples with the question, answer, picture and voice of an earlier one."""
    seen = set[tuple[str, str | None, str]]()
    for each in verdicts:
        if isinstance(each, SpokenSample):
            written = each.written
            content = (each.question.key, written.answer, str(written.picture.resolve()))
            if content in seen:
                yield Rejected(written.name, written.source, "the same as an earlier line")
                continue
            seen.add(content)
        yield each
