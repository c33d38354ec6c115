"""Predictions on disk: a JSON line for each answer, its pictures and recordings beside it.

A process appends to a file of its own, so any number of processes share a folder. A line is whole
or, after a crash, the last one of its file and torn: then it is ignored and answered again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from omni_diffusion import html
from omni_diffusion.conversation import Conversation, Image, Part, Speech, Text
from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.scoring import Score, Scores
from omni_diffusion.io import files
from omni_diffusion.media import Picture, Waveform

PREDICTIONS = "predictions-*.jsonl"
MEDIA_FOLDER = "media"
SHOWN = 24  # predictions that keep their prompt, for the galleries of a report


@dataclass(frozen=True)
class Prediction:
    """The answer to one sample, and its scores.

    facts: what was asked and expected. answer, via: the parts of the scored answer, and of the
    answer that its request was made of, each {"text": ..}, {"image": FILE} or {"speech": FILE}.
    scores: [amount, of] by name. seconds: from the request's first work to its answer. share:
    seconds of its batch over the answers of that batch. steps: forward passes. speech_seconds: of
    sound in the answer. prompt: the parts that were asked, of the first samples only.
    """

    facts: dict[str, Any]
    answer: list[dict[str, str]]
    scores: dict[str, list[float]]
    seconds: float
    share: float
    steps: int
    speech_seconds: float = 0.0
    via: list[dict[str, str]] = field(default_factory=list)
    prompt: list[dict[str, str]] = field(default_factory=list)
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the request ended in an error."""
        return self.error is not None

    def scored(self) -> Scores:
        """The scores by name."""
        return {name: Score(amount, of) for name, (amount, of) in self.scores.items()}


class PredictionStore:
    """The predictions of one benchmark, in a folder or, without one, in memory.

    shard: the number of this process, which names the file that it appends to. Raises
    EvaluationError for a broken line that is not the last of its file.
    """

    def __init__(self, folder: Path | None = None, shard: int = 0) -> None:
        self.folder, self._shard = folder, shard
        self._known: dict[str, Prediction] = {}
        if folder is not None:
            files.make_folder(folder / MEDIA_FOLDER)
            _mend(self._file)
            self.reload()

    def __len__(self) -> int:
        return len(self._known)

    def reload(self) -> None:
        """Read what other processes have added since."""
        if self.folder is not None:
            self._known = {str(p.facts["id"]): p for p in read_predictions(self.folder)}

    def find(self, facts: Mapping[str, Any]) -> Prediction | None:
        """The prediction for a sample; None if there is none for exactly these facts."""
        known = self._known.get(str(facts["id"]))
        return known if known is not None and known.facts == plain(facts) else None

    def media(
        self, parts: Sequence[Part], facts: Mapping[str, Any], stage: str
    ) -> list[dict[str, str]]:
        """The parts as JSON values, with pictures and recordings written to files.

        Without a folder they are named and not kept.
        """
        key = blake2b(json.dumps(plain(facts)).encode(), digest_size=8).hexdigest()
        return [self._kept(part, f"{key}-{stage}{i}") for i, part in enumerate(parts)]

    def add(self, prediction: Prediction) -> None:
        """Append a prediction."""
        self._known[str(prediction.facts["id"])] = prediction
        if self.folder is None:
            return
        line = json.dumps(asdict(prediction), ensure_ascii=False)
        with files.storage_errors(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def prompt(self, conversation: Conversation, facts: Mapping[str, Any]) -> list[dict[str, str]]:
        """The prompt's parts as JSON values, for the first samples in a folder; else empty."""
        if self.folder is None or len(self._known) >= SHOWN:
            return []
        return self.media(html.visible(conversation), facts, "prompt")

    @property
    def _file(self) -> Path:
        assert self.folder is not None
        return self.folder / PREDICTIONS.replace("*", str(self._shard))

    def _kept(self, part: Part, name: str) -> dict[str, str]:
        if isinstance(part, Text):
            return {"text": part.text}
        kind, suffix = ("image", ".png") if isinstance(part, Image) else ("speech", ".flac")
        file = f"{MEDIA_FOLDER}/{name}{suffix}"
        if self.folder is not None:
            medium = part.picture if isinstance(part, Image) else part.waveform
            medium.write(self.folder / file)
        return {kind: file}


def read_predictions(folder: Path) -> Iterator[Prediction]:
    """All predictions in a folder, file by file."""
    for path in sorted(folder.glob(PREDICTIONS)):
        *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                yield Prediction(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise EvaluationError(
                    f"{path}:{number} is not a prediction ({error})",
                    value=str(path),
                    fix="remove the line; it is answered again",
                ) from error


def parts_of(stored: Sequence[Mapping[str, str]], folder: Path) -> tuple[Part, ...]:
    """Stored parts with their media read again; raises MediaError for a lost file."""
    parts = list[Part]()
    for part in stored:
        ((kind, value),) = part.items()
        if kind == "text":
            parts.append(Text(value))
        elif kind == "image":
            parts.append(Image(Picture.read(folder / value)))
        else:
            parts.append(Speech(Waveform.read(folder / value)))
    return tuple(parts)


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they look after a round trip through JSON."""
    read: dict[str, Any] = json.loads(json.dumps(facts, ensure_ascii=False))
    return read


def _mend(path: Path) -> None:
    """Drop a torn last line, so that the next one begins on a line of its own."""
    if path.is_file():
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            files.write_bytes(path, whole + b"\n" if whole else b"")
