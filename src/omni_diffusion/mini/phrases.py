"""Phrases that are recorded alone, from whose speech codes every sentence about scenes is joined.

A model that learns from many takes of a word, each with other codes, says a blend of them. What it
is to say should be the same each time: here a phrase has one take, and a text one sequence of
codes. Takes begin and end in silence, so they can be joined in any order, with a short pause.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omni_diffusion.errors import DataError
from omni_diffusion.mini import scenes

PAUSE = 0.03  # seconds of silence at both ends of a take


def _phrases() -> tuple[str, ...]:
    found = "a picture of, a flat picture of, in flat style, i see, yes, no".split(", ")
    found += "there is, there is no, there are, it is".split(", ")
    found += "to the left of, to the right of, left of, above, below, over".split(", ")
    for noun in scenes.OBJECTS:
        many = (f"{number} {scenes.plural(noun)}" for number in scenes.NUMBERS[2:])
        found += [scenes.article(noun), noun, f"one {noun}", *many]
    found += [f"is {color}" for color in sorted(set(scenes.COLORS.values()))]
    for color in scenes.BACKGROUNDS:
        found += [f"on a {color} background", f"{color} background", f"on {color}"]
        found.append(f"the background is {color}")
    found += [f"is {scenes.article(category)}" for category in scenes.CATEGORIES]
    return tuple(found)


PHRASES = _phrases()
_KNOWN = frozenset(PHRASES)
_LONGEST = max(len(phrase.split()) for phrase in PHRASES)


def split_phrases(text: str) -> list[str]:
    """The phrases of a sentence about scenes, each as long as possible.

    Raises DataError for a text with other words.
    """
    words = text.lower().rstrip("?.").replace(",", "").split()
    found: list[str] = []
    while words:
        starts = (" ".join(words[:n]) for n in range(min(_LONGEST, len(words)), 0, -1))
        phrase = next((start for start in starts if start in _KNOWN), None)
        if phrase is None:
            raise DataError(
                f"no phrase begins with {words[0]!r} in {text!r}; give a sentence about scenes",
                field="text",
                value=text,
            )
        found.append(phrase)
        words = words[len(phrase.split()) :]
    return found


def join_phrases(text: str, takes: Mapping[str, Tensor]) -> Tensor:
    """The takes of a text's phrases in order, as one tensor [n].

    takes: by phrase, codes or samples. Raises DataError for a text with other words, or for a
    phrase without a take.
    """
    phrases = split_phrases(text)
    missing = [phrase for phrase in phrases if phrase not in takes]
    if missing:
        raise DataError(
            f"no take of {missing[0]!r}; delete plan.jsonl and record the phrases (`make voices`)",
            value=missing[0],
        )
    return torch.cat([takes[phrase] for phrase in phrases])
