"""Presets: how each task and benchmark is sampled, and where each number comes from.

`paper` follows the paper (arXiv 2603.06577), `upstream` the published code with its quirks. Numbers
that the catalog has already are taken from there. Files of `omni-diffusion tune` are presets too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from omni_diffusion.conversation import Conversation
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import TaskError
from omni_diffusion.io import config as configs
from omni_diffusion.io.config import nearest
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.defaults import MIN_TOKENS, Length, answer_length
from omni_diffusion.tasks.encode import encode
from omni_diffusion.tasks.render import Model, render
from omni_diffusion.tasks.task import Task

Origin = Literal["paper", "code", "ours", "measured"]


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a setting come from.

    "paper": the paper. "code": the published code. "ours": neither gives a number; `note` says why
    this one was chosen. "measured": chosen by `omni-diffusion tune`, whose file has the figures.
    """

    length: Origin
    steps: Origin
    repetition: Origin
    position: Origin
    guidance: Origin
    drawing: Origin
    note: str = ""


class SettledSampling(NamedTuple):
    """What a setting comes to for one conversation.

    max_tokens: tokens of the answer; None where a picture or the masked parts decide.
    """

    params: SamplingParams
    max_tokens: int | None


@dataclass(frozen=True)
class Setting:
    """How a preset samples one task.

    length: the rule for the length of the answer, whatever the model's own is; None where a picture
    or the masked parts decide. pace: steps for each token of the answer, rounded down; None = the
    task's own, for each masked token and rounded up. whole_prompt: the rule counts every token
    before the answer, not the speech frames alone. tail: what a benchmark adds to its question.
    """

    task: str
    params: SamplingParams
    length: Length | None
    origin: Provenance
    pace: float | None = None
    whole_prompt: bool = False
    tail: str = ""

    def settle(
        self, conversation: Conversation, model: Model, max_tokens: int | None = None
    ) -> SettledSampling:
        """The parameters and answer length for one conversation; `max_tokens` sets the length.

        Media are encoded where their size is needed; give turns of `tasks.encode.encode` to encode
        them once. Raises what `render` does.
        """
        if max_tokens is None and self.length is not None:
            max_tokens = self._tokens(self.length, conversation, model)
        if self.pace is None:
            return SettledSampling(self.params, max_tokens)
        size = max_tokens
        if size is None or self.length is None:  # a picture has a fixed size
            start, stop = self._answer(conversation, model, max_tokens)
            size = stop - start
        params = replace(self.params, steps=max(1, int(self.pace * size)))
        return SettledSampling(params, max_tokens)

    def _tokens(self, rule: Length, conversation: Conversation, model: Model) -> int:
        """The length that the rule gives, without regard to the model's own lengths."""
        if rule.of == "nothing":
            return rule.tokens({})
        if self.whole_prompt:
            start, _ = self._answer(conversation, model, MIN_TOKENS)
            return rule.tokens({rule.of: start})
        return answer_length(rule, encode(conversation, model.codecs), model.codecs.text)

    def _answer(
        self, conversation: Conversation, model: Model, max_tokens: int | None
    ) -> tuple[int, int]:
        """First position of the answer, and the one behind its last."""
        unguided = replace(self.params, guidance=0.0)  # the other branch does not change it
        known = CATALOG[self.task]
        return render(known, conversation, model, unguided, max_tokens=max_tokens).canvas.answer


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
        setting = self.tasks.get(name) or self.benchmarks.get(name)
        if setting is None:
            raise TaskError(
                f"preset {self.name!r} has no setting {name!r}",
                field="preset",
                value=name,
                fix=nearest(name, (*self.tasks, *self.benchmarks)),
            )
        return setting


@dataclass(frozen=True)
class TunedSampling:
    """The sampling of one task; pace: steps for each token of its answer, None = as in `params`."""

    params: SamplingParams
    pace: float | None = None


@dataclass(frozen=True)
class TunedPreset:
    """A file of `omni-diffusion tune`: sampling by task, and how it was found.

    provenance: the model, the benchmark and the figures of everything that was tried. Lengths are
    those of the model.
    """

    name: str
    tasks: dict[str, TunedSampling]
    provenance: dict[str, Any] = field(default_factory=dict)


def preset(name: str) -> Preset:
    """The preset called `name`, or in the file of that name (.json).

    Raises TaskError with the known names, and ConfigError for a file that is not a preset.
    """
    if name.endswith(".json"):
        return _tuned(Path(name))
    if name not in PRESETS:
        raise TaskError(
            f"no preset is called {name!r}",
            field="preset",
            value=name,
            fix=nearest(name, tuple(PRESETS)),
        )
    return PRESETS[name]


def _tuned(path: Path) -> Preset:
    stored = configs.load(TunedPreset, path)
    settings = {
        task: Setting(task, tuned.params, None, replace(MEASURED, note=str(path)), tuned.pace)
        for task, tuned in stored.tasks.items()
    }
    return Preset(stored.name, MappingProxyType(settings), MappingProxyType({}))


def table(name: str) -> str:
    """A preset as the Markdown table of docs/generation-parameters.md."""
    chosen = preset(name)
    head = "setting task length steps repetition position guidance drawing remark".split()
    rows = [head, ["---"] * len(head)]
    for key, setting in (*chosen.tasks.items(), *chosen.benchmarks.items()):
        rows.append([f"`{key}`", f"`{setting.task}`", *_cells(setting), setting.origin.note])
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def _cells(setting: Setting) -> list[str]:
    """The numbers of a setting, each with its source."""
    params, origin = setting.params, setting.origin
    return [
        f"{_length_cell(setting)} ({origin.length})",
        f"{_steps_cell(setting)} ({origin.steps})",
        f"{_weight(params.repetition_penalty, 1)} ({origin.repetition})",
        f"{_weight(params.position_penalty, 1)} ({origin.position})",
        f"{_weight(params.guidance, 0)} ({origin.guidance})",
        f"{_drawing_cell(params)} ({origin.drawing})",
    ]


def _weight(value: float, off: float) -> str:
    return "off" if value == off else f"{value:g}"


def _length_cell(setting: Setting) -> str:
    rule, known = setting.length, CATALOG[setting.task]
    if rule is None:
        if not known.answer:
            return "the masked parts"
        return "the codes" if setting.params.constrain else "the codes + 4"
    if rule.of == "nothing":
        return str(rule.extra)
    counted = "text tokens" if rule.of == "text" else "speech frames"
    return f"{rule.factor:g} × {'tokens of the prompt' if setting.whole_prompt else counted}"


def _steps_cell(setting: Setting) -> str:
    if setting.pace is None:
        return f"{CATALOG[setting.task].pace:g} a masked token"
    return f"{setting.pace:g} a token"


def _drawing_cell(params: SamplingParams) -> str:
    limits = {"top-p": params.top_p, "top-k": params.top_k}
    kept = "".join(f", {name} {value:g}" for name, value in limits.items() if value is not None)
    return f"temperature {params.temperature:g}{kept}"


# ------------------------------------------------------------------------------------------ paper
CODE = Provenance("code", "code", "code", "code", "code", "code")
OURS = Provenance("ours", "ours", "ours", "ours", "ours", "ours")
MEASURED = Provenance("ours", "measured", "measured", "measured", "measured", "measured")
HEARING = replace(CODE, length="paper")
SPEAKING = replace(CODE, length="paper", steps="paper")
PAINTING = replace(CODE, length="paper", steps="paper", position="paper")
WORD = Length(extra=8)
"""Length of an answer of a word or a letter, as in the published evaluation on MME."""
ASK_WORD = "\nAnswer the question using a single word or phrase."
ASK_LETTER = "\nAnswer with the option's letter from the given choices directly."
"""Tails in the wording of LLaVA-OneVision's data, which the model was trained on, and of lmms-eval
0.7.3; the published script adds none to the questions of MME, which ask for yes or no."""


def _sized(known: Task) -> Length | None:
    """The task's own rule, where its answer has one."""
    return None if known.answer in ((), ("image",)) else known.length


def _paper(
    name: str,
    origin: Provenance,
    note: str = "",
    length: Length | None = None,
    tail: str = "",
) -> Setting:
    """A task as the catalog has it, or with another length."""
    known = CATALOG[name]
    rule, source = length or _sized(known), replace(origin, note=note)
    return Setting(name, known.params, rule, source, tail=tail)


PAPER_TASKS = {
    "chat": _paper("chat", OURS, "in no script; long enough for a short answer"),
    "asr": _paper("asr", HEARING, "steps of the evaluation script"),
    "tts": _paper("tts", SPEAKING, "repetition of the evaluation script"),
    "t2i": _paper("t2i", PAINTING),
    "caption": _paper("caption", OURS, "as `vqa`, whose answers are as short"),
    "vqa": _paper("vqa", CODE),
    "s2i": _paper("s2i", PAINTING),
    "svqa": _paper("svqa", CODE, "speech begins after a quarter (paper)"),
    "sqa": _paper("sqa", OURS, "as `svqa`; speech begins after a quarter (paper)"),
    "inpaint": _paper("inpaint", replace(OURS, length="paper"), "penalties as `t2i`"),
    "infill": _paper("infill", OURS, "in neither; the plainest values"),
}
PAPER_BENCHMARKS = {
    "librispeech": _paper("asr", HEARING),
    "libritts": _paper("tts", SPEAKING),
    "mme": _paper("vqa", CODE, "the evaluation script's", WORD),
    "pope": _paper("vqa", OURS, "as `mme`, a word too; asks for a word", WORD, ASK_WORD),
    "seed-bench-2-plus": _paper("vqa", OURS, "as `mme`, a letter; asks for it", WORD, ASK_LETTER),
    "mmmu": _paper("vqa", OURS, "as `mme`, mostly a letter; asks for it", WORD, ASK_LETTER),
    "coco-t2i": _paper("t2i", PAINTING),
    "clip-s2i": _paper("s2i", PAINTING),
    "spoken-mme": _paper("svqa", OURS, "as `svqa`; no number is given"),
}


# -------------------------------------------------------------------------------------- upstream
def _upstream(
    name: str,
    origin: Provenance = CODE,
    note: str = "",
    *,
    length: Length | None = None,
    pace: float = 1.0,
    whole_prompt: bool = False,
    **changes: float,
) -> Setting:
    """A task by the published rules; the catalog has the numbers of the scripts."""
    known = CATALOG[name]
    # top_k: in no script; it is the default of the library below them, and always on
    quirks = replace(known.params, rules="upstream", constrain=False, top_p=0.9, top_k=50)
    params = replace(quirks, **changes)  # type: ignore[arg-type]  # changes are float fields
    rule = length or _sized(known)
    return Setting(name, params, rule, replace(origin, note=note), pace, whole_prompt)


UPSTREAM_TASKS = {
    "chat": _upstream(
        "chat",
        note="no script; the defaults of `generate()`",
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
    "infill": _upstream("infill", OURS, "no code; filters of every script"),
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
            ("paper", PAPER_TASKS, PAPER_BENCHMARKS),
            ("upstream", UPSTREAM_TASKS, UPSTREAM_BENCHMARKS),
        )
    }
)
