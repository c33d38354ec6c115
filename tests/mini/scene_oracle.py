"""A second opinion on scenes: answers questions from where the sprites lie alone."""

from __future__ import annotations

import re

from omni_diffusion.mini import scenes

AMOUNTS = ("no", "one", "two", "three", "four")


def sprites(scene: scenes.Scene) -> list[tuple[str, float, float]]:
    """Every object with the middle of its sprite, in pixels from the left and from the top."""
    places = scenes.LAYOUTS[scene.layout]
    return [
        (noun, x + side / 2, y + side / 2)
        for noun, (x, y, side) in zip(scene.objects, places, strict=True)
    ]


def related(
    relation: str, first: tuple[str, float, float], second: tuple[str, float, float]
) -> bool:
    """Whether the first sprite stands in this relation to the second, and in none across it."""
    (_, x, y), (_, other_x, other_y) = first, second
    if "left" in relation:
        return x < other_x and y == other_y
    if "right" in relation:
        return x > other_x and y == other_y
    if relation in ("above", "over"):
        return y < other_y and x == other_x
    return y > other_y and x == other_x


def truth(scene: scenes.Scene, question: str) -> tuple[str, str]:
    """The true short answer to a question about a scene, and the true sentence."""
    seen = sprites(scene)
    nouns = [noun for noun, _, _ in seen]
    if question == "what color is the background?":
        return scene.background, f"the background is {scene.background}"
    if question == "what is in the picture?":
        thing = amount(nouns[0], len(nouns))
        return thing, f"I see {thing}"
    if found := re.fullmatch(r"is there an? (\w+)\?", question):
        noun = found[1]
        if noun in nouns:
            return "yes", f"yes, there is {scenes.article(noun)}"
        return "no", f"no, there is no {noun}"
    if found := re.fullmatch(r"how many (\w+) are there\?", question):
        count = sum(scenes.plural(noun) == found[1] for noun in nouns)
        are = f"are {AMOUNTS[count]} {found[1]}" if count > 1 else f"is one {nouns[0]}"
        return AMOUNTS[count], f"there {are}"
    if found := re.fullmatch(
        r"what is (to the left of|to the right of|above|below) the (\w+)\?", question
    ):
        (there,) = [sprite for sprite in seen if sprite[0] == found[2]]
        (it,) = [sprite[0] for sprite in seen if related(found[1], sprite, there)]
        return scenes.article(it), f"it is {scenes.article(it)}"
    ends = {
        "on the left": lambda s: s[1],
        "on the right": lambda s: -s[1],
        "at the top": lambda s: s[2],
        "at the bottom": lambda s: -s[2],
    }
    found = re.fullmatch(r"what is (on the left|on the right|at the top|at the bottom)\?", question)
    assert found is not None, question
    measures = sorted((ends[found[1]](sprite), sprite[0]) for sprite in seen)
    assert measures[0][0] < measures[1][0], "no sprite lies further there than another"
    it = measures[0][1]
    return scenes.article(it), f"it is {scenes.article(it)}"


def amount(noun: str, count: int) -> str:
    """How a caption counts."""
    return scenes.article(noun) if count == 1 else f"{AMOUNTS[count]} {scenes.plural(noun)}"
