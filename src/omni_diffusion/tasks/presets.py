"""Named settings: how each task and benchmark is sampled, and where each number comes from.

`official` follows the paper (arXiv 2603.06577), `upstream` the published code with its quirks.
What a task's own record says is referred to and not said again. Knows no request and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.io.config import nearest
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.defaults import LEAST, Length
from omni_diffusion.tasks.encode import Spoken, encode
from omni_diffusion.tasks.render import Model, render, room
from omni_diffusion.tasks.task import Task

Source = Literal["paper", "code", "ours"]


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a setting come from, and what is to be said about them.

    "paper": the paper. "code": the published code. "ours": neither has a number; `note` says why
    it is this one.
    """

    places: Source
    steps: Source
    repetition: Source
    position: Source
    guidance: Source
    drawing: Source
    note: str = ""


class Asked(NamedTuple):
    """What a setting comes to for one conversation, in the order in which a Request takes it.

    length: places of the answer; None where a picture or the blanks given decide.
    """

    params: SamplingParams
    length: int | None


@dataclass(frozen=True)
class Setting:
    """How one task is sampled.

    length: the rule for the places of its answer, whatever the model's own is; None where a
    picture or the blanks given decide. pace: steps for each place of the answer, rounded down;
    None = the task's own, for each blank and rounded up. whole_prompt: the rule counts every
    place before the answer, not the frames heard alone.
    """

    task: str
    params: SamplingParams
    length: Length | None
    origin: Origin
    pace: float | None = None
    whole_prompt: bool = False

    def settle(
        self, conversation: Sequence[Spoken], model: Model, length: int | None = None
    ) -> Asked:
        """The parameters and places for one conversation; `length` asks for other places.

        Media are encoded here where their size is needed, and again when the request runs; hand
        in `tasks.encode.encode`d turns to have it done once. Raises what `render` does.
        """
        if length is None and self.length is not None:
            length = self._places(self.length, conversation, model)
        if self.pace is None:
            return Asked(self.params, length)
        size = length
        if size is None or self.length is None:  # a picture has its size, whatever was asked
            start, stop = self._answer(conversation, model, length)
            size = stop - start
        return Asked(replace(self.params, steps=max(1, int(self.pace * size))), length)

    def _places(self, rule: Length, conversation: Sequence[Spoken], model: Model) -> int:
        """The places that the rule gives, without regard to the model's own lengths."""
        if rule.of == "nothing":
            return rule.places({})
        if self.whole_prompt:
            start, _ = self._answer(conversation, model, LEAST)
            return rule.places({rule.of: start})
        known = replace(CATALOG[self.task], length=rule)
        return room(known, encode(conversation, model.codecs), {}, model.codecs.text)

    def _answer(
        self, conversation: Sequence[Spoken], model: Model, length: int | None
    ) -> tuple[int, int]:
        """First place of the answer, and the one behind its last."""
        unguided = replace(self.params, guidance=0.0)  # the other branch tells nothing about it
        known = CATALOG[self.task]
        return render(known, conversation, model, unguided, length=length).canvas.answer


@dataclass(frozen=True)
class Preset:
    """A setting for every task of the catalog, and for the benchmarks of the paper.

    benchmarks: by benchmark; `upstream` has those that the published code measures.
    """

    name: str
    tasks: Mapping[str, Setting]
    benchmarks: Mapping[str, Setting]

    def of(self, name: str) -> Setting:
        """The setting of a task or a benchmark; raises TaskError with the known names."""
        found = self.tasks.get(name) or self.benchmarks.get(name)
        if found is None:
            known = (*self.tasks, *self.benchmarks)
            raise TaskError(f"preset {self.name!r} has no setting {name!r}; {nearest(name, known)}")
        return found


def preset(name: str) -> Preset:
    """The preset called `name`; raises TaskError with the known names."""
    if name not in PRESETS:
        raise TaskError(f"no preset is called {name!r}; {nearest(name, tuple(PRESETS))}")
    return PRESETS[name]


def table(name: str) -> str:
    """A preset as the Markdown table of docs/generation-parameters.md."""
    found = preset(name)
    head = "setting task places steps repetition position guidance drawing remark".split()
    rows = [head, ["---"] * len(head)]
    for key, setting in (*found.tasks.items(), *found.benchmarks.items()):
        rows.append([f"`{key}`", f"`{setting.task}`", *_cells(setting), setting.origin.note])
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def _cells(setting: Setting) -> list[str]:
    """The numbers of a setting, each with its source."""
    params, origin = setting.params, setting.origin
    return [
        f"{_places_told(setting)} ({origin.places})",
        f"{_steps_told(setting)} ({origin.steps})",
        f"{_weight(params.repetition_penalty, 1)} ({origin.repetition})",
        f"{_weight(params.position_penalty, 1)} ({origin.position})",
        f"{_weight(params.guidance, 0)} ({origin.guidance})",
        f"{_drawing_told(params)} ({origin.drawing})",
    ]


def _weight(value: float, off: float) -> str:
    return "off" if value == off else f"{value:g}"


def _places_told(setting: Setting) -> str:
    rule, known = setting.length, CATALOG[setting.task]
    if rule is None:
        if not known.answer:
            return "the blanks given"
        return "the codes" if setting.params.constrain else "the codes + 4"
    if rule.of == "nothing":
        return str(rule.extra)
    counted = "text tokens" if rule.of == "text" else "frames heard"
    return f"{rule.factor:g} × {'places of the prompt' if setting.whole_prompt else counted}"


def _steps_told(setting: Setting) -> str:
    if setting.pace is None:
        return f"{CATALOG[setting.task].pace:g} a blank"
    return f"{setting.pace:g} a place"


def _drawing_told(params: SamplingParams) -> str:
    limits = {"top-p": params.top_p, "top-k": params.top_k}
    kept = "".join(f", {name} {value:g}" for name, value in limits.items() if value is not None)
    return f"temperature {params.temperature:g}{kept}"


# -------------------------------------------------------------------------------------- official
CODE = Origin("code", "code", "code", "code", "code", "code")
OURS = Origin("ours", "ours", "ours", "ours", "ours", "ours")
HEARING = replace(CODE, places="paper")
SPEAKING = replace(CODE, places="paper", steps="paper")
PAINTING = replace(CODE, places="paper", steps="paper", position="paper")
WORD = Length(extra=8)
"""Room for an answer of a word or a letter, as the published evaluation on MME gives it."""


def _sized(known: Task) -> Length | None:
    """The task's own rule, where its answer has one."""
    return None if known.answer in ((), ("image",)) else known.length


def _official(name: str, origin: Origin, note: str = "", length: Length | None = None) -> Setting:
    """A task as the catalog has it, or with another length."""
    known = CATALOG[name]
    return Setting(name, known.params, length or _sized(known), replace(origin, note=note))


OFFICIAL_TASKS = {
    "chat": _official("chat", OURS, "no script answers text with text; room for a short answer"),
    "asr": _official("asr", HEARING, "steps of the evaluation script"),
    "tts": _official("tts", SPEAKING, "repetition of the evaluation script"),
    "t2i": _official("t2i", PAINTING),
    "caption": _official("caption", OURS, "as `vqa`, whose answers are as short"),
    "vqa": _official("vqa", CODE),
    "s2i": _official("s2i", PAINTING),
    "svqa": _official("svqa", CODE, "speech begins after a quarter (paper)"),
    "sqa": _official("sqa", OURS, "as `svqa`; speech begins after a quarter (paper)"),
    "inpaint": _official("inpaint", replace(OURS, places="paper"), "penalties as `t2i`"),
    "infill": _official("infill", OURS, "in neither; the plainest"),
}
OFFICIAL_BENCHMARKS = {
    "librispeech": _official("asr", HEARING),
    "libritts": _official("tts", SPEAKING),
    "mme": _official("vqa", CODE, "the evaluation script's", WORD),
    "pope": _official("vqa", OURS, "as `mme`, a word too", WORD),
    "seed-bench-2-plus": _official("vqa", OURS, "as `mme`, a letter", WORD),
    "mmmu": _official("vqa", OURS, "as `mme`, mostly a letter", WORD),
    "coco-t2i": _official("t2i", PAINTING),
    "clip-s2i": _official("s2i", PAINTING),
    "spoken-mme": _official("svqa", OURS, "as `svqa`; no number is told"),
}


# -------------------------------------------------------------------------------------- upstream
def _upstream(
    name: str,
    origin: Origin = CODE,
    note: str = "",
    *,
    length: Length | None = None,
    pace: float = 1.0,
    whole_prompt: bool = False,
    **changes: float,
) -> Setting:
    """A task by the published rules; what the catalog took from the scripts stands there."""
    known = CATALOG[name]
    # top_k: in no script, but a default of the library below them, and always on.
    quirks = replace(known.params, rules="upstream", constrain=False, top_p=0.9, top_k=50)
    params = replace(quirks, **changes)  # type: ignore[arg-type]  # changes are float fields
    rule = length or _sized(known)
    return Setting(name, params, rule, replace(origin, note=note), pace, whole_prompt)


UPSTREAM_TASKS = {
    "chat": _upstream(
        "chat",
        note="no script; what `generate()` does when told nothing",
        length=Length(extra=512),
        temperature=0.2,
        top_p=0.95,
    ),
    "asr": _upstream("asr", length=Length(extra=50), pace=0.5),
    "tts": _upstream("tts", length=Length(extra=50), pace=0.5, repetition_penalty=1.0),
    "t2i": _upstream("t2i"),
    "caption": _upstream("caption", OURS, "no script; as `vqa`"),
    "vqa": _upstream("vqa"),
    "s2i": _upstream("s2i", note="both branches aligned, see below"),
    "svqa": _upstream("svqa", note="speech begins after a fifth (code)"),
    "sqa": _upstream("sqa", OURS, "no script; as `svqa`, speech too"),
    "inpaint": _upstream("inpaint", OURS, "no code; as `t2i`"),
    "infill": _upstream("infill", OURS, "no code; filters as in every script"),
}
UPSTREAM_BENCHMARKS = {
    "librispeech": _upstream("asr", length=Length(0.2, of="speech"), pace=0.5, whole_prompt=True),
    "libritts": _upstream("tts", pace=0.5),
    "mme": _upstream("vqa", length=WORD),
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        name: Preset(name, MappingProxyType({**tasks}), MappingProxyType({**benchmarks}))
        for name, tasks, benchmarks in (
            ("official", OFFICIAL_TASKS, OFFICIAL_BENCHMARKS),
            ("upstream", UPSTREAM_TASKS, UPSTREAM_BENCHMARKS),
        )
    }
)
