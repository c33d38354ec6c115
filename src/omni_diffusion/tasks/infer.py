"""The task that a person's inputs belong to, where none is named.

The words of a template decide first ("Convert the speech to text."), then what is given and what is
wanted.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from omni_diffusion.errors import TaskError
from omni_diffusion.tasks.catalog import CATALOG, TASKS
from omni_diffusion.tasks.prompts import TAG_KINDS, DetectedTask, TaggedMessage, detect_task
from omni_diffusion.tasks.task import Task
from omni_diffusion.vocab import Kind

GAP = re.compile(r"(?<!\w)_+(?!\w)")  # a gap of a text to fill, as a word of its own
# By what is given, and the medium wanted in the answer. A recording alone is a spoken question; to
# transcribe it is said in words, or by the name of the task.
BY_INPUTS: dict[tuple[frozenset[Kind], Kind], str] = {
    (frozenset({"text"}), "text"): "chat",
    (frozenset({"text"}), "image"): "t2i",
    (frozenset({"text"}), "speech"): "tts",
    (frozenset({"speech"}), "text"): "sqa",
    (frozenset({"speech"}), "speech"): "sqa",
    (frozenset({"speech"}), "image"): "s2i",
    (frozenset({"image"}), "text"): "caption",
    (frozenset({"image", "text"}), "text"): "vqa",
    (frozenset({"image", "speech"}), "text"): "svqa",
    (frozenset({"image", "speech"}), "speech"): "svqa",
}


def infer_task(
    kinds: Collection[Kind],
    *,
    text: str | None = None,
    system: str | None = None,
    wanted: Kind = "text",
    mask: bool = False,
    gaps: bool = True,
) -> DetectedTask | None:
    """The task of inputs of these kinds, and the text that fills its template; None if none fits.

    text, system: the user's and the system's words. wanted: the medium asked for. mask: whether a
    hole of a picture is given. gaps: whether a lone _ in the text is a gap to fill.
    """
    if mask:
        return DetectedTask(partial_task("image"), text)
    if gaps and text is not None and GAP.search(text):
        return DetectedTask(partial_task("text"), text)
    by_words = _by_words(kinds, text or "", system)
    if by_words is not None:
        return by_words
    name = BY_INPUTS.get((frozenset(kinds), wanted))
    return None if name is None else DetectedTask(CATALOG[name], text)


def direct_task(given: Kind, wanted: Kind) -> Task:
    """The task from one medium alone to another; raises KeyError where there is none."""
    return CATALOG[BY_INPUTS[frozenset((given,)), wanted]]


def partial_task(kind: Kind) -> Task:
    """The task that fills a part of this kind that is given in part."""
    for task in TASKS:
        if task.partial == kind:
            return task
    raise TaskError(f"no task fills a part of {kind}", field="kind", value=kind)


def _by_words(kinds: Collection[Kind], text: str, system: str | None) -> DetectedTask | None:
    """The task whose system message or instruction is given word for word."""
    tags = "\n".join(tag for tag, kind in TAG_KINDS.items() if kind in kinds)
    user: TaggedMessage[object] = TaggedMessage("user", f"{text.strip()}\n{tags}".strip())
    head = [] if system is None else [TaggedMessage[object]("system", system)]
    media = {kind: tag for tag, kind in TAG_KINDS.items()}
    for task in TASKS:
        worded = task.system if task.system is not None else task.null_prompt.strip()
        if not worded or not task.answer:
            continue
        answer = "".join("words" if kind == "text" else media[kind] for kind in task.answer)
        found = detect_task([*head, user, TaggedMessage("assistant", answer)])
        if found is not None and found.task.name == task.name:
            return found
    return None
