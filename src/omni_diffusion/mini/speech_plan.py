"""Speaking the world: which sentence is said by which voice, and the synthesizer that says it.

The plan is fixed by a seed, the work is resumable (one FLAC a sentence, written whole), and the
synthesizer is Kokoro-82M through ONNX, a tool for making data that nothing needs at run time.
Knows nothing of tokens or models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.media import Waveform
from omni_diffusion.mini import scenes

ANSWER_VOICE = "af_heart"  # every spoken answer, as in the paper one fixed voice
HELD_OUT_VOICES = ("bm_fable", "am_eric", "af_sky")
VOICES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nova af_river af_sarah "
    "am_adam am_echo am_fenrir am_liam am_michael am_onyx am_puck "
    "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_george bm_lewis"
).split()


@dataclass(frozen=True)
class Utterance:
    """One line of the plan: what is said, by whom, and what for.

    `role` is "caption" or "question" (said by users) or "answer" (said in the answer voice).
    """

    index: int
    role: str
    split: str
    voice: str
    text: str


def questions() -> list[str]:
    """Every question the world can ask, world and facts together, in a fixed order."""
    texts = ["what color is the background?", "what is in the picture?"]
    texts += ["what is on the left?", "what is on the right?"]
    texts += ["what is at the top?", "what is at the bottom?"]
    for noun in scenes.OBJECTS:
        texts += [
            f"is there {scenes.article(noun)}?",
            f"how many {scenes.plural(noun)} are there?",
        ]
        for where in ("to the left of", "to the right of", "above", "below"):
            texts.append(f"what is {where} the {noun}?")
    return texts + [q.text for q in scenes.facts()]


def answers() -> list[str]:
    """Every sentence a spoken answer can be."""
    texts = {f"the background is {b}" for b in scenes.BACKGROUNDS}
    for noun in scenes.OBJECTS:
        thing = scenes.article(noun)
        texts |= {f"yes, there is {thing}", f"no, there is no {noun}", f"it is {thing}"}
        texts |= {f"I see {thing}", f"there is one {noun}"}
        for count in (2, 3, 4):
            many = f"{scenes.NUMBERS[count]} {scenes.plural(noun)}"
            texts |= {f"there are {many}", f"I see {many}"}
    return sorted(texts | {q.sentence for q in scenes.facts()})


def plan(seed: int = 0, *, captions: int = 3000, rounds: int = 4) -> list[Utterance]:
    """The whole speech bank, shuffled so that any beginning of it is a usable sample.

    `captions` of training scenes in all voices (every third in the answer voice, for synthesis),
    each question in `rounds` voices, each answer once; a tenth as many held-out captions and
    questions in seen and in held-out voices.
    """
    rng = random.Random(seed)
    lines: list[tuple[str, str, str, str]] = []
    for i in range(captions):
        text = rng.choice(scenes.captions(scenes.sample_scene(rng)))
        voice = ANSWER_VOICE if i % 3 == 0 else rng.choice(VOICES)
        lines.append(("caption", "train", voice, text))
    for text in questions():
        for voice in rng.sample(VOICES, rounds):
            lines.append(("question", "train", voice, text))
    lines += [("answer", "train", ANSWER_VOICE, text) for text in answers()]
    for i in range(captions // 10):
        text = rng.choice(scenes.captions(scenes.sample_scene(rng, split="test")))
        voice = rng.choice(HELD_OUT_VOICES) if i % 4 == 0 else rng.choice(VOICES)
        lines.append(("caption", "test", voice, text))
    for text in rng.sample(questions(), min(200, captions)):
        taken = {v for r, s, v, t in lines if r == "question" and t == text}
        free = [v for v in VOICES if v not in taken]
        lines.append(("question", "test", rng.choice([*free, *HELD_OUT_VOICES]), text))
    rng.shuffle(lines)
    return [Utterance(i, *line) for i, line in enumerate(lines)]


class Synthesizer(Protocol):
    """Anything that speaks: a text in a named voice becomes a waveform."""

    def speak(self, text: str, voice: str) -> Waveform:
        """Say `text` in `voice`."""
        ...


class Kokoro:
    """Kokoro-82M, int8, through onnxruntime: 24 kHz.

    `model` is the ONNX file, `voices` the folder of voice packs (float32 [510, 1, 256] each, the
    row being the number of phoneme tokens), `vocabulary` the phoneme ids as JSON.
    """

    rate = 24_000

    def __init__(self, model: str | Path, voices: str | Path, vocabulary: str | Path) -> None:
        try:
            import onnxruntime
            from kokoro_onnx.tokenizer import Tokenizer
        except ImportError as error:
            raise DataError(
                "speaking needs the packages kokoro-onnx and onnxruntime: pip install kokoro-onnx"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options)
        self._phonemes = Tokenizer()
        loaded: dict[str, Any] = json.loads(Path(vocabulary).read_text())
        self._ids: dict[str, int] = loaded.get("vocab", loaded)
        self._voices = Path(voices)
        self._packs: dict[str, Any] = {}

    def speak(self, text: str, voice: str) -> Waveform:
        """Say `text`; British for voices whose name begins with b, American otherwise."""
        if voice not in self._packs:
            pack = np.fromfile(self._voices / f"{voice}.bin", dtype=np.float32)
            self._packs[voice] = pack.reshape(-1, 1, 256)
        accent = "en-gb" if voice.startswith("b") else "en-us"
        phonemes = self._phonemes.phonemize(text, accent)
        ids = [self._ids[p] for p in phonemes if p in self._ids]
        if len(ids) >= len(self._packs[voice]):
            raise DataError(
                f"{text[:40]!r} .. has {len(ids)} phonemes, Kokoro says up to"
                f" {len(self._packs[voice]) - 1}; part it"
            )
        inputs = {
            "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
            "style": self._packs[voice][len(ids)],
            "speed": np.ones(1, dtype=np.float32),
        }
        samples = self._session.run(None, inputs)[0].reshape(-1)
        return trim(Waveform(torch.from_numpy(samples.copy())[None].float(), self.rate))


def trim(wave: Waveform, *, floor: float = 0.01, margin: float = 0.06) -> Waveform:
    """Cut the quiet before and after, leaving `margin` seconds; `floor` is relative to the peak."""
    loud = (wave.samples.abs().amax(0) > floor * wave.samples.abs().max()).nonzero().flatten()
    if len(loud) == 0:
        return wave
    edge = int(margin * wave.rate)
    start, stop = max(0, int(loud[0]) - edge), int(loud[-1]) + 1 + edge
    return Waveform(wave.samples[:, start:stop].clamp(-1, 1), wave.rate)


def speak(
    lines: Iterable[Utterance], folder: Path, synthesizer: Synthesizer
) -> Iterator[Utterance]:
    """Say every line that is not there yet; yields each line once its file is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        path = folder / f"{line.index:05d}.flac"
        if not path.exists():
            synthesizer.speak(line.text, line.voice).write(path)
        yield line


def save_plan(lines: Sequence[Utterance], path: Path) -> None:
    """Write the plan as JSON lines."""
    files.write_text(path, "".join(json.dumps(asdict(line)) + "\n" for line in lines))


def load_plan(path: Path) -> list[Utterance]:
    """Read a plan back; raises DataError for a file that holds none."""
    try:
        return [Utterance(**json.loads(row)) for row in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no plan of speech ({error}); make it anew") from error
