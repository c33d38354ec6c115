"""Scenes of sprites, their captions and questions, and which scenes are held out.

A `Scene` is the ground truth: `render_scene` draws it, `captions` and `questions` describe it.
`parse` reads a caption and `recognize_scene` an image back into a scene, so that answers can be
compared by meaning.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch
from PIL import Image as PilImage

from omni_diffusion.errors import DataError
from omni_diffusion.media import Picture

SIZE = 64  # pixels, width and height of an image
OBJECTS = (
    "apple banana grape strawberry watermelon pineapple carrot pizza hamburger cake "
    "dog cat pig cow elephant tiger panda penguin turtle octopus "
    "fish butterfly car bus bicycle airplane rocket sailboat house tree "
    "umbrella guitar ball clock book camera key star crown snowman"
).split()
PLURALS = {"strawberry": "strawberries", "butterfly": "butterflies", "octopus": "octopuses"} | {
    "fish": "fish",
    "bus": "buses",
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "yellow": (250, 224, 110),
    "purple": (170, 118, 212),
    "gray": (150, 150, 154),
    "orange": (246, 166, 80),
    "blue": (92, 152, 236),
    "green": (122, 202, 112),
    "pink": (250, 174, 200),
    "white": (248, 248, 248),
}
STYLES = ("noto", "twemoji")  # a caption says "in flat style" for the second and nothing else
NUMBERS = ("zero", "one", "two", "three", "four")
CATEGORIES = {
    "fruit": "apple banana grape strawberry watermelon pineapple".split(),
    "food": "carrot pizza hamburger cake".split(),
    "animal": "dog cat pig cow elephant tiger panda penguin turtle octopus fish butterfly".split(),
    "vehicle": "car bus bicycle airplane rocket sailboat".split(),
}
COLORS = {
    "apple": "red", "banana": "yellow", "grape": "purple", "strawberry": "red", "carrot": "orange",
    "pig": "pink", "elephant": "gray", "tree": "green", "star": "yellow", "crown": "yellow",
    "turtle": "green", "snowman": "white", "key": "yellow", "tiger": "orange",
}  # fmt: skip

# Boxes of the sprites by layout: (left, top, side) in pixels, in the order of Scene.objects.
# Boxes lie on the 8-pixel grid of the image tokens, so a sprite always covers whole tokens.
LAYOUTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "one": ((8, 8, 48),),
    "row": ((0, 16, 32), (32, 16, 32)),
    "column": ((16, 0, 32), (16, 32, 32)),
    "trio": ((16, 0, 32), (0, 32, 32), (32, 32, 32)),
    "corners": ((0, 0, 32), (32, 0, 32), (0, 32, 32), (32, 32, 32)),
}
COUNTED = {1: "one", 2: "row", 3: "trio", 4: "corners"}


@dataclass(frozen=True)
class Scene:
    """Ground truth of an image: layout, objects in the order of its boxes, background, style."""

    layout: str
    objects: tuple[str, ...]
    background: str
    style: str = "noto"

    @property
    def count(self) -> int:
        """Number of sprites."""
        return len(self.objects)

    @property
    def uniform(self) -> bool:
        """Whether all sprites show the same object."""
        return len(set(self.objects)) == 1


# ------------------------------------------------------------------------------- held-out parts
def _tenth(*key: str) -> bool:
    """True for a fixed tenth of all keys, the same on every machine."""
    return hashlib.sha256("|".join(key).encode()).digest()[0] < 26


def held_out(scene: Scene) -> bool:
    """Whether the scene has a combination that training never shows.

    A tenth of all (object, background), (object, count) and ordered pairs of objects is held out.
    """
    if any(_tenth("background", o, scene.background) for o in scene.objects):
        return True
    if scene.uniform:
        return _tenth("count", scene.objects[0], str(scene.count))
    return _tenth("pair", *scene.objects)


def sample_scene(rng: random.Random, *, split: str = "train") -> Scene:
    """Draw a scene of the split "train" (nothing held out) or "test" (something held out)."""
    if split not in ("train", "test"):
        raise DataError(
            f"unknown split {split!r}; expected 'train' or 'test'", field="split", value=split
        )
    while True:
        background = rng.choice(list(BACKGROUNDS))
        style = STYLES[rng.random() < 0.3]
        if rng.random() < 0.5:
            a, b = rng.sample(OBJECTS, 2)
            scene = Scene(rng.choice(("row", "column")), (a, b), background, style)
        else:
            count = rng.choices((1, 2, 3, 4), (3, 1, 1, 1))[0]
            scene = Scene(COUNTED[count], (rng.choice(OBJECTS),) * count, background, style)
        if held_out(scene) == (split == "test"):
            return scene


def every_scene() -> list[Scene]:
    """All 52,480 scenes in a fixed order."""
    scenes = []
    for style in STYLES:
        for background in BACKGROUNDS:
            for noun in OBJECTS:
                for count, layout in COUNTED.items():
                    scenes.append(Scene(layout, (noun,) * count, background, style))
            for a in OBJECTS:
                for b in OBJECTS:
                    if a != b:
                        scenes += [
                            Scene(layout, (a, b), background, style) for layout in ("row", "column")
                        ]
    return scenes


# -------------------------------------------------------------------------------------- pictures
@cache
def _sprites(style: str, side: int) -> dict[str, PilImage.Image]:
    source = resources.files("omni_diffusion.mini") / "assets" / f"{style}.png"
    with source.open("rb") as file, PilImage.open(file) as opened:
        sheet = opened.convert("RGBA")
    inner = side - 4  # a margin of background, so that neighbours never touch
    cut = {}
    for i, name in enumerate(OBJECTS):
        x, y = (i % 10) * 64, (i // 10) * 64
        sprite = sheet.crop((x, y, x + 64, y + 64))
        cut[name] = sprite.resize((inner, inner), PilImage.Resampling.LANCZOS)
    return cut


def render_scene(scene: Scene) -> Picture:
    """Draw a scene: uint8 [64, 64, 3]."""
    canvas = PilImage.new("RGB", (SIZE, SIZE), BACKGROUNDS[scene.background])
    for name, (x, y, side) in zip(scene.objects, LAYOUTS[scene.layout], strict=True):
        sprite = _sprites(scene.style, side)[name]
        canvas.paste(sprite, (x + 2, y + 2), sprite)
    return Picture.from_pil(canvas)


# ------------------------------------------------------------------------------------- sentences
def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The noun's plural."""
    return PLURALS.get(noun, noun + "s")


def _counted(noun: str, count: int) -> str:
    return article(noun) if count == 1 else f"{NUMBERS[count]} {plural(noun)}"


def _content(scene: Scene) -> list[str]:
    """Wordings of what is in the image, the canonical one first."""
    if scene.uniform:
        return [_counted(scene.objects[0], scene.count)]
    a, b = (article(o) for o in scene.objects)
    if scene.layout == "row":
        return [f"{a} to the left of {b}", f"{b} to the right of {a}", f"{a} left of {b}"]
    return [f"{a} above {b}", f"{b} below {a}", f"{a} over {b}"]


def captions(scene: Scene) -> list[str]:
    """Every wording of a scene; the first is the canonical one, which training uses as answer."""
    wordings = []
    tail = " in flat style" if scene.style == "twemoji" else ""
    flat = "flat " if scene.style == "twemoji" else ""
    for what in _content(scene):
        wordings.append(f"{what} on a {scene.background} background{tail}")
        wordings.append(f"a {flat}picture of {what} on {scene.background}")
        wordings.append(f"{what}, {scene.background} background{tail}")
    return wordings


def caption(scene: Scene) -> str:
    """The canonical caption."""
    return captions(scene)[0]


@dataclass(frozen=True)
class Question:
    """A question with its short answer and its full sentence, which is the spoken answer."""

    kind: str
    text: str
    answer: str
    sentence: str


def _pair_questions(scene: Scene) -> list[Question]:
    a, b = scene.objects
    if scene.layout == "row":
        relations = (("to the left of", b, a), ("to the right of", a, b))
        sides = (("on the left", a), ("on the right", b))
    else:
        relations = (("above", b, a), ("below", a, b))
        sides = (("at the top", a), ("at the bottom", b))
    pairs = [
        Question("relation", f"what is {how} the {there}?", article(it), f"it is {article(it)}")
        for how, there, it in relations
    ]
    return pairs + [
        Question("relation", f"what is {where}?", article(it), f"it is {article(it)}")
        for where, it in sides
    ]


def _presence(noun: str, there: bool) -> Question:
    answer = "yes" if there else "no"
    sentence = f"yes, there is {article(noun)}" if there else f"no, there is no {noun}"
    return Question("presence", f"is there {article(noun)}?", answer, sentence)


def _likely(noun: str, scene: Scene) -> bool:
    """Whether scenes of this background, and of this count if uniform, may contain `noun`."""
    if held_out(scene):
        return True
    count = scene.uniform and _tenth("count", noun, str(scene.count))
    return not (count or _tenth("background", noun, scene.background))


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """One question of each kind that fits the scene; presence has as many yes as no answers.

    Training never asks for objects that are held out with this background or count: the answer
    would always be no, and the model would give it for held-out scenes as well.
    """
    present = rng.choice(scene.objects)
    absent = rng.choice([o for o in OBJECTS if o not in scene.objects and _likely(o, scene)])
    result = [
        Question(
            "background", "what color is the background?", scene.background,
            f"the background is {scene.background}",
        ),
        _presence(*((present, True) if rng.random() < 0.5 else (absent, False))),
    ]  # fmt: skip
    if scene.uniform:
        noun, count = scene.objects[0], scene.count
        verb = "there is one" if count == 1 else f"there are {NUMBERS[count]}"
        sentence = f"{verb} {noun if count == 1 else plural(noun)}"
        result.append(
            Question("count", f"how many {plural(noun)} are there?", NUMBERS[count], sentence)
        )
        thing = _counted(noun, count)
        result.append(Question("identity", "what is in the picture?", thing, f"I see {thing}"))
    else:
        result += rng.sample(_pair_questions(scene), 2)
    return result


def facts() -> list[Question]:
    """Questions without an image: kinds and colours of the objects."""
    result = []
    for kind, members in CATEGORIES.items():
        for noun in members:
            sentence = f"{article(noun)} is {article(kind)}"
            result.append(Question("kind", f"what is {article(noun)}?", article(kind), sentence))
            for other in CATEGORIES:
                yes = other == kind
                result.append(
                    Question(
                        "is", f"is {article(noun)} {article(other)}?", "yes" if yes else "no",
                        ("yes, " if yes else "no, ") + sentence,
                    )
                )  # fmt: skip
    for noun, color in COLORS.items():
        sentence = f"{article(noun)} is {color}"
        result.append(Question("color", f"what color is {article(noun)}?", color, sentence))
    return result


# --------------------------------------------------------------------------------------- reading
_ANY = "|".join(OBJECTS + [plural(o) for o in OBJECTS])
_SINGULAR = {plural(o): o for o in OBJECTS} | {o: o for o in OBJECTS}
_THING = rf"(an?|one|two|three|four) ({_ANY})"
_RELATION = r"to the left of|left of|to the right of|right of|above|over|below|under"
_FORM = re.compile(
    rf"^(?:there (?:is|are) )?(?:an? (?P<flat>flat )?picture of )?{_THING}"
    rf"(?: (?P<relation>{_RELATION}) {_THING})?"
    rf"(?: on (?:an? )?|,? (?:with an? )?)(?P<background>{'|'.join(BACKGROUNDS)})(?: background)?"
    r"(?P<style> in flat style)?$"
)


def parse(text: str) -> Scene | None:
    """The scene of a caption in any wording, or None if the text is not a caption."""
    match = _FORM.match(text.strip().lower().rstrip("."))
    if match is None:
        return None
    number, noun, other_number, other = (match.group(i) for i in (2, 3, 5, 6))
    style = STYLES[bool(match["flat"] or match["style"])]
    count = 1 if number in ("a", "an") else NUMBERS.index(number)
    first = _SINGULAR[noun]
    if match["relation"] is None:
        return Scene(COUNTED[count], (first,) * count, match["background"], style)
    second = _SINGULAR[other]
    if count != 1 or other_number not in ("a", "an", "one"):
        return None
    relation = match["relation"]
    pair = (first, second) if re.search("left|above|over", relation) else (second, first)
    layout = "row" if re.search("left|right", relation) else "column"
    if layout == "column" and first == second:
        return None  # no scene has the same object above itself
    return Scene(layout, pair, match["background"], style)


# ----------------------------------------------------------------------------------------- judge
@cache
def _templates() -> dict[tuple[str, str], tuple[list[str], torch.Tensor]]:
    """By (layout, style): the names and all sprites without margin, RGBA [40, s, s, 4]."""
    made = {}
    for layout, places in LAYOUTS.items():
        for style in STYLES:
            side = places[0][2]
            sprites = [_sprites(style, side)[o] for o in OBJECTS]
            rgba = torch.stack(
                [
                    torch.frombuffer(bytearray(s.tobytes()), dtype=torch.uint8)
                    .view(side - 4, side - 4, 4)
                    .float()
                    for s in sprites
                ]
            )
            made[layout, style] = (OBJECTS, rgba)
    return made


def _background(pixels: torch.Tensor) -> str:
    """The background colour that is nearest to most pixels of the border."""
    rim = torch.cat([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    names = list(BACKGROUNDS)
    colors = torch.tensor([BACKGROUNDS[n] for n in names], dtype=torch.float32)
    nearest = torch.cdist(rim, colors).argmin(dim=1)
    return names[int(nearest.bincount(minlength=len(names)).argmax())]


def recognize_scene(picture: Picture) -> Scene:
    """The scene whose rendering has the smallest squared pixel error, by template matching.

    For each layout and style the best object of each box is chosen independently, because boxes do
    not overlap. Raises DataError for an image of another size than SIZE x SIZE.
    """
    pixels = picture.pixels.float()
    if pixels.shape != (SIZE, SIZE, 3):
        raise DataError(
            f"scenes have {SIZE} x {SIZE} x 3 pixel values, got {tuple(pixels.shape)}",
            field="picture",
            value=tuple(pixels.shape),
        )
    background = _background(pixels)
    plain = torch.tensor(BACKGROUNDS[background], dtype=torch.float32)
    empty = (pixels - plain).square().sum(-1)  # error of leaving a pixel to the background
    best: tuple[float, Scene] | None = None
    for (layout, style), (names, rgba) in _templates().items():
        alpha = rgba[..., 3:] / 255
        painted = rgba[..., :3] * alpha + plain * (1 - alpha)
        error = float(empty.sum())
        chosen = []
        for x, y, side in LAYOUTS[layout]:
            window = (slice(y + 2, y + side - 2), slice(x + 2, x + side - 2))
            distance = (painted - pixels[window]).square().sum((1, 2, 3))
            chosen.append(names[int(distance.argmin())])
            error += float(distance.min()) - float(empty[window].sum())
        if layout in ("trio", "corners") and len(set(chosen)) > 1:
            continue  # such scenes do not exist
        if best is None or error < best[0]:
            best = (error, Scene(layout, tuple(chosen), background, style))
    assert best is not None  # layouts of one and two boxes always give a candidate
    return best[1]
