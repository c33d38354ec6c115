"""The plan of the recorded speech: which sentence is spoken in which voice.

A seed fixes the plan. Each sentence becomes one FLAC file, so speaking can be resumed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from omni_diffusion.errors import DataError
from omni_diffusion.io import files
from omni_diffusion.media import Waveform
from omni_diffusion.mini import scenes
from omni_diffusion.mini.phrases import PHRASES
from omni_diffusion.mini.scenes import Scene

ANSWER_VOICE = "af_heart"  # every spoken answer, as in the paper one fixed voice
CAPTIONS = 0.7  # fraction of captions among new sentences to speak; the others are answers
HELD_OUT_VOICES = ("bm_fable", "am_eric", "af_sky")
VOICES = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nova af_river af_sarah "
    "am_adam am_echo am_fenrir am_liam am_michael am_onyx am_puck "
    "bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_george bm_lewis"
).split()


@dataclass(frozen=True)
class Utterance:
    """One line of the plan.

    index: number of the line and of its file. role: "caption" or "question" (spoken by users),
    "answer" or "phrase" (spoken in the answer voice; sentences are joined from phrases). split:
    "train" or "test". voice: its name. text: the sentence.
    """

    index: int
    role: str
    split: str
    voice: str
    text: str


def questions() -> list[str]:
    """Every question about scenes and facts, in a fixed order."""
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
    """Every sentence that a spoken answer can be, in alphabetical order."""
    texts = {f"the background is {b}" for b in scenes.BACKGROUNDS}
    for noun in scenes.OBJECTS:
        thing = scenes.article(noun)
        texts |= {f"yes, there is {thing}", f"no, there is no {noun}", f"it is {thing}"}
        texts |= {f"I see {thing}", f"there is one {noun}"}
        for count in (2, 3, 4):
            many = f"{scenes.NUMBERS[count]} {scenes.plural(noun)}"
            texts |= {f"there are {many}", f"I see {many}"}
    return sorted(texts | {q.sentence for q in scenes.facts()})


_answers = cache(answers)


def sentence(rng: random.Random) -> str:
    """A sentence to speak: a caption of a training scene, or an answer."""
    scene = scenes.sample_scene(rng)
    return rng.choice(scenes.captions(scene) if rng.random() < CAPTIONS else _answers())


def plan(seed: int = 0, *, captions: int = 3000, rounds: int = 4) -> list[Utterance]:
    """All lines to record, shuffled so that any prefix of them is a usable sample.

    captions: number of captions of training scenes, in all voices and every third in the answer
    voice; a tenth as many captions of held-out scenes are added. rounds: number of voices that ask
    each question. Each answer is spoken once. Some questions are asked in another voice for tests.
    After the shuffled lines follow `noun_lines` and the phrases of `phrases.PHRASES`.
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
    lines += noun_lines(seed + 1)
    # With a comma the synthesizer speaks neither a question nor the end of a sentence.
    lines += [("phrase", "train", ANSWER_VOICE, f"{phrase},") for phrase in PHRASES]
    return [Utterance(i, *line) for i, line in enumerate(lines)]


def noun_lines(seed: int) -> list[tuple[str, str, str, str]]:
    """Every noun, singular and plural, in every voice of `VOICES`: (role, split, voice, text).

    Each line is a short caption of a training scene. The lines are shuffled.
    """
    rng = random.Random(seed)
    lines = []
    for noun in scenes.OBJECTS:
        for several in (False, True):
            for voice in VOICES:
                scene = _noun_scene(noun, several, rng)
                lines.append(("caption", "train", voice, rng.choice(scenes.captions(scene))))
    rng.shuffle(lines)
    return lines


def _noun_scene(noun: str, several: bool, rng: random.Random) -> Scene:
    """A training scene of one noun, or of the noun beside another if all such are held out."""
    for attempt in range(1000):
        count = rng.choice((2, 3, 4)) if several else 1
        background = rng.choice(list(scenes.BACKGROUNDS))
        style = scenes.STYLES[rng.random() < 0.2]
        scene = Scene(scenes.COUNTED[count], (noun,) * count, background, style)
        if attempt > 100:
            other = rng.choice([name for name in scenes.OBJECTS if name != noun])
            scene = Scene(rng.choice(("row", "column")), (noun, other), background, style)
        if not scenes.held_out(scene):
            return scene
    raise DataError(f"every scene of {noun!r} is held out", value=noun)


class TextToSpeech(Protocol):
    """A speech synthesizer."""

    def speak(self, text: str, voice: str) -> Waveform:
        """Speak `text` in the voice of this name."""
        ...


def speak(
    lines: Iterable[Utterance], folder: Path, synthesizer: TextToSpeech
) -> Iterator[Utterance]:
    """Speak every line that has no file in `folder`; yields each line once its file is complete."""
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
    """Read a plan. Raises DataError for a file that is not one."""
    try:
        return [Utterance(**json.loads(row)) for row in files.text_lines(path)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a speech plan ({error}); write it again") from error
