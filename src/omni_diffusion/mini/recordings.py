"""Banks of recorded sentences: one Ogg file and a manifest.

The bank that ships with a model has held-out sentences, so the model can be evaluated without a
synthesizer. Other banks have training lines, which then need not be synthesized again. The speech
plan decides which sentences a bank has.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import soundfile
import torch

from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.media import BLOCK, SPEECH_RATE, Waveform
from omni_diffusion.mini import scenes
from omni_diffusion.mini.speech_plan import ANSWER_VOICE, HELD_OUT_VOICES, VOICES, Utterance
from omni_diffusion.mini.speech_plan import questions as all_questions

Role: TypeAlias = Literal["caption", "question", "answer", "phrase"]
VoiceGroup: TypeAlias = Literal["seen", "held_out"]

SOUND_FILE = "sounds.ogg"
MANIFEST_FILE = "manifest.jsonl"
PAUSE = 800  # samples of silence after each sentence, so that neighbours do not overlap
THRIFT = 0.92  # libsndfile's compression level for Opus: about 3 kB a second
LONGEST = 3600.0  # seconds a bank may last

SHARES = {  # how many held-out lines of the plan ship, by (kind, voices)
    ("caption", "seen"): 110,
    ("caption", "held_out"): 40,
    ("question", "seen"): 100,
    ("question", "held_out"): 12,
    ("fact", "seen"): 16,
    ("fact", "held_out"): 4,
}
GENERAL = all_questions()[:6]  # questions that the plan only has in training
ANSWERS = 32


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded sentence."""

    role: Role
    voice: str
    text: str
    waveform: Waveform


@dataclass(frozen=True)
class BankEntry:
    """A line of the manifest: the sentence is samples start..stop-1 of the sound file.

    role: a user's caption or question, an answer or a phrase.
    """

    role: Role
    voice: str
    text: str
    start: int
    stop: int


class Bank:
    """The sentences of one bank and their sound."""

    def __init__(self, entries: Sequence[BankEntry], sound: Waveform) -> None:
        self.entries = tuple(entries)
        self._sound = sound

    @classmethod
    def open(cls, folder: str | Path) -> Bank:
        """Read what `build` wrote. Raises DataError or MediaError for incomplete or other files."""
        path = Path(folder) / MANIFEST_FILE
        try:
            rows = list(files.text_lines(path))
            entries = [BankEntry(**json.loads(row)) for row in rows]
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} is not the manifest of a speech bank ({error}); build the bank", value=path
            ) from error
        sound = Waveform.read(Path(folder) / SOUND_FILE, max_seconds=LONGEST)
        expected = entries[-1].stop + PAUSE if entries else 0
        if sound.samples.shape[1] != expected or sound.rate != SPEECH_RATE:
            raise DataError(
                f"{path} lists {expected} samples at {SPEECH_RATE} Hz, its sound file has"
                f" {sound.samples.shape[1]} at {sound.rate} Hz; build both again"
            )
        return cls(entries, sound)

    def recording(self, entry: BankEntry) -> Recording:
        """The recording of one entry."""
        sound = Waveform(self._sound.samples[:, entry.start : entry.stop], SPEECH_RATE)
        return Recording(entry.role, entry.voice, entry.text, sound)

    def sample(
        self, role: Role, seed: int, n: int | None = None, voices: VoiceGroup = "seen"
    ) -> list[Recording]:
        """`n` different sentences, or all if there are fewer, in an order given by the seed.

        voices: "seen" in training, or "held_out". Raises DataError if the bank has none.
        """
        entries = [e for e in self.entries if e.role == role and _voice_group(e.voice) == voices]
        if not entries:
            raise DataError(
                f"the bank has no {role!r} in voices {voices!r}; use another bank", value=role
            )
        random.Random(seed).shuffle(entries)
        return [self.recording(entry) for entry in entries[:n]]


def selection(plan: Sequence[Utterance], seed: int = 0) -> list[Utterance]:
    """The lines of the shipped bank: held-out lines of the plan, and more numbered after it.

    The additional lines are the general questions in voices in which the plan does not have them,
    and captions of held-out scenes in the answer voice.
    """
    remaining = dict(SHARES)
    lines: list[Utterance] = []
    for line in plan:
        if line.split == "test" and remaining[_share(line)] > 0:
            remaining[_share(line)] -= 1
            lines.append(line)
    rng = random.Random(seed)
    further = [("question", voice, text) for text in GENERAL for voice in _fresh(plan, text, rng)]
    for _ in range(ANSWERS):
        scene = scenes.sample_scene(rng, split="test")
        further.append(("answer", ANSWER_VOICE, rng.choice(scenes.captions(scene))))
    return lines + [
        Utterance(len(plan) + i, role, "test", voice, text)
        for i, (role, voice, text) in enumerate(further)
    ]


def build(lines: Sequence[Utterance], audio: Path, folder: Path) -> None:
    """Pack the files that `speech_plan.speak` wrote to `audio` for these lines into a bank."""
    entries: list[BankEntry] = []
    pieces: list[torch.Tensor] = []
    start = 0
    for line in lines:
        sound = Waveform.read(audio / f"{line.index:05d}.flac").mono().resample(SPEECH_RATE)
        pieces += [sound.samples.clamp(-1, 1), torch.zeros(1, PAUSE)]
        stop = start + sound.samples.shape[1]
        entries.append(BankEntry(_role(line), line.voice, line.text, start, stop))
        start = stop + PAUSE
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / SOUND_FILE, _opus(torch.cat(pieces, dim=1)))
    rows = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
    files.write_text(folder / MANIFEST_FILE, rows)


def restore(bank: Bank, lines: Sequence[Utterance], audio: Path) -> int:
    """Write a bank's recordings of some lines to `audio`, as `speech_plan.speak` does.

    Existing files stay. Lines that are not in the bank are skipped. Returns the number of files
    written.
    """
    held = {(entry.role, entry.voice, entry.text): entry for entry in bank.entries}
    audio.mkdir(parents=True, exist_ok=True)
    count = 0
    for line in lines:
        path = audio / f"{line.index:05d}.flac"
        entry = held.get((_role(line), line.voice, line.text))
        if entry is not None and not path.exists():
            bank.recording(entry).waveform.write(path)
            count += 1
    return count


def _voice_group(voice: str) -> VoiceGroup:
    return "held_out" if voice in HELD_OUT_VOICES else "seen"


def _role(line: Utterance) -> Role:
    roles: dict[str, Role] = {role: role for role in get_args(Role)}
    return roles[line.role]


def _share(line: Utterance) -> tuple[str, VoiceGroup]:
    """The key of SHARES that a line belongs to."""
    fact = line.text in {question.text for question in scenes.facts()}
    return "fact" if fact else line.role, _voice_group(line.voice)


def _fresh(plan: Sequence[Utterance], text: str, rng: random.Random) -> Iterator[str]:
    """Four seen voices in which the plan does not have `text`, and a held-out one."""
    taken = {line.voice for line in plan if line.text == text}
    yield from rng.sample([voice for voice in VOICES if voice not in taken], 4)
    yield rng.choice(HELD_OUT_VOICES)


def _opus(samples: torch.Tensor) -> bytes:
    """Encode samples [1, n] as an Ogg Opus file."""
    out = io.BytesIO()
    with soundfile.SoundFile(
        out, "w", SPEECH_RATE, 1, format="OGG", subtype="OPUS", compression_level=THRIFT
    ) as sound:
        for block in torch.split(samples[0], BLOCK):
            sound.write(block.numpy())
    return out.getvalue()
