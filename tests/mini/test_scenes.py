import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mini.scene_oracle import amount, related, sprites, truth

from omni_diffusion.errors import DataError
from omni_diffusion.media import Picture
from omni_diffusion.mini import scenes
from omni_diffusion.mini.scenes import BACKGROUNDS, OBJECTS, Scene

EVERY = scenes.every_scene()
PAIRS = [scene for scene in EVERY if not scene.uniform]
POSSIBLE = {None, *EVERY}
SCENES = st.sampled_from(EVERY)
quick = settings(deadline=None, max_examples=150)


def seeded(count: int, seed: int = 0) -> list[Scene]:
    return random.Random(seed).sample(EVERY, count)


# ------------------------------------------------------------------------------------ the scenes
def test_every_scene_once() -> None:
    one_kind, pairs = len(OBJECTS) * 4, len(OBJECTS) * (len(OBJECTS) - 1) * 2
    assert len(EVERY) == len(set(EVERY)) == 2 * len(BACKGROUNDS) * (one_kind + pairs) == 52_480


def test_what_is_drawn_is_one_of_them() -> None:
    rng, every = random.Random(0), set(EVERY)
    drawn = [scenes.sample_scene(rng, split=split) for split in ("train", "test") * 200]
    assert every.issuperset(drawn)
    assert {scene.count for scene in drawn} == {1, 2, 3, 4}
    assert {scene.layout for scene in drawn} == set(scenes.LAYOUTS)


def test_sprites_never_overlap() -> None:
    for places in scenes.LAYOUTS.values():
        cells = torch.zeros(scenes.SIZE, scenes.SIZE)
        for x, y, side in places:
            cells[y : y + side, x : x + side] += 1
        assert cells.max() == 1
        assert cells.sum() == sum(side**2 for _, _, side in places)  # none leaves the picture


# ------------------------------------------------------------------------------ what is held out
def combinations(scene: Scene) -> set[tuple[str, ...]]:
    """Everything that a scene could teach: object on background, object in number, ordered pair."""
    found: set[tuple[str, ...]] = {("background", o, scene.background) for o in scene.objects}
    if scene.uniform:
        return found | {("count", scene.objects[0], str(scene.count))}
    return found | {("pair", *scene.objects)}


def union(chosen: Iterable[Scene]) -> set[tuple[str, ...]]:
    return set().union(*map(combinations, chosen))


@pytest.mark.slow
def test_every_test_scene_holds_what_no_training_scene_does() -> None:
    shown = union(scene for scene in EVERY if not scenes.held_out(scene))
    assert all((combinations(scene) <= shown) != scenes.held_out(scene) for scene in EVERY)
    hidden = union(EVERY) - shown
    sizes, whole = Counter(c[0] for c in hidden), Counter(c[0] for c in union(EVERY))
    for kind in whole:
        assert sizes[kind] / whole[kind] == pytest.approx(0.1, abs=0.05), kind
    assert {c[1] for c in shown} == set(OBJECTS)  # the parts themselves are all shown
    assert {c[2] for c in shown if c[0] == "background"} == set(BACKGROUNDS)


def test_the_split_is_that_of_the_shipped_weights() -> None:
    assert sum(map(scenes.held_out, EVERY)) == 16_086


def test_splits_draw_their_own_scenes_alone() -> None:
    rng = random.Random(1)
    assert not any(scenes.held_out(scenes.sample_scene(rng)) for _ in range(500))
    assert all(scenes.held_out(scenes.sample_scene(rng, split="test")) for _ in range(200))


def test_a_strange_split_is_an_error() -> None:
    with pytest.raises(DataError, match="'dev'; expected 'train' or 'test'"):
        scenes.sample_scene(random.Random(0), split="dev")


# ------------------------------------------------------------------------------------- sentences
@quick
@given(SCENES)
def test_every_wording_is_read_back(scene: Scene) -> None:
    said = scenes.captions(scene)
    assert len(set(said)) == len(said)
    assert said[0] == scenes.caption(scene)
    for caption in said:
        assert scenes.parse(caption) == scene
        assert scenes.parse(f" {caption.capitalize()}.\n") == scene


@quick
@given(st.sampled_from(PAIRS))
def test_what_a_caption_of_a_pair_says_is_so(scene: Scene) -> None:
    where = {sprite[0]: sprite for sprite in sprites(scene)}
    relations = set()
    for caption in scenes.captions(scene):
        found = re.search(
            r"an? (\w+) ([a-z ]+?) an? (\w+)(?: on |,)", caption.split("picture of ")[-1]
        )
        assert found is not None
        first, relation, second = found.groups()
        assert related(relation, where[first], where[second])
        assert scene.background in caption
        assert ("flat" in caption) == (scene.style == "twemoji")
        relations.add(relation)
    assert len(relations) == 3  # two ways round, and a shorter word


def test_captions_of_one_kind_count() -> None:
    for scene in EVERY:
        if scene.uniform:
            words = f"{amount(scene.objects[0], scene.count)} on a {scene.background} background"
            assert scenes.caption(scene).removesuffix(" in flat style") == words


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a dog to the left of an apple", "an apple to the right of a dog"),
        ("a dog left of an apple", "an apple right of a dog"),
        ("a dog above an apple", "an apple below a dog"),
        ("a dog over an apple", "an apple under a dog"),
    ],
)
def test_mirrored_wordings_are_one_scene(left: str, right: str) -> None:
    scene = scenes.parse(f"{left} on a blue background")
    assert scene is not None
    assert scene == scenes.parse(f"{right} on a blue background")
    assert scene.objects == ("dog", "apple")
    turned = scenes.parse(
        f"{right.replace('dog', 'x').replace('apple', 'dog').replace('x', 'apple')} on blue"
    )
    assert turned == replace(scene, objects=("apple", "dog"))


def test_two_of_a_kind_side_by_side_are_two() -> None:
    assert scenes.parse("a dog left of a dog on pink") == scenes.parse("two dogs on pink")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "a dog on a brown background",
        "a unicorn on a blue background",
        "five dogs on a blue background",
        "two dogs above a cat on a blue background",
        "a dog above a dog on a blue background",
        "a dog near a cat on a blue background",
        "a dog on a blue background and a cat",
        "a dog on a blue background in oil",
        "\N{REPLACEMENT CHARACTER}" * 3,
    ],
)
def test_what_is_no_caption_is_no_scene(text: str) -> None:
    assert scenes.parse(text) is None


@quick
@given(
    st.sampled_from(("a", "an", "one", "two", "four")),
    st.sampled_from(("dog", "dogs", "fish")),
    st.sampled_from(("", "left of", "to the right of", "above", "under")),
    st.sampled_from(("a cat", "one dog", "two cats", "a fish")),
)
def test_reading_gives_a_scene_of_the_world_or_none(
    number: str, noun: str, relation: str, other: str
) -> None:
    more = f" {relation} {other}" if relation else ""
    assert scenes.parse(f"{number} {noun}{more}, blue background") in POSSIBLE


# ------------------------------------------------------------------------------------- questions
@quick
@given(SCENES, st.integers(0, 2**32))
def test_answers_are_true_of_the_scene(scene: Scene, seed: int) -> None:
    asked = scenes.questions(scene, random.Random(seed))
    kinds = Counter(question.kind for question in asked)
    both = {"background": 1, "presence": 1}
    own = {"count": 1, "identity": 1} if scene.uniform else {"relation": 2}
    assert kinds == both | own
    assert len({question.text for question in asked}) == len(asked)
    for question in asked:
        assert (question.answer, question.sentence) == truth(scene, question.text)


def test_yes_and_no_are_balanced_and_any_object_is_asked_for() -> None:
    rng = random.Random(0)
    asked = [
        next(q for q in scenes.questions(scene, rng) if q.kind == "presence")
        for scene in seeded(2000)
    ]
    assert Counter(q.answer for q in asked)["yes"] / 2000 == pytest.approx(0.5, abs=0.04)
    for answer in ("yes", "no"):
        assert len({q.text for q in asked if q.answer == answer}) == len(OBJECTS)


def test_both_of_a_pair_are_asked_for() -> None:
    scene = Scene("row", ("dog", "cat"), "blue")
    rng = random.Random(0)
    asked = [q.text for _ in range(60) for q in scenes.questions(scene, rng) if q.answer == "yes"]
    assert set(asked) == {"is there a dog?", "is there a cat?"}


def test_facts_never_contradict_each_other() -> None:
    facts = scenes.facts()
    assert len({fact.text for fact in facts}) == len(facts)
    kinds = {q.text.split()[-1][:-1]: q.answer.split()[-1] for q in facts if q.kind == "kind"}
    for fact in facts:
        if fact.kind == "is":
            noun, kind = re.fullmatch(r"is an? (\w+) an? (\w+)\?", fact.text).groups()  # type: ignore[union-attr]
            assert fact.answer == ("yes" if kinds[noun] == kind else "no")
            assert (
                fact.sentence
                == f"{fact.answer}, {scenes.article(noun)} is {scenes.article(kinds[noun])}"
            )
        else:
            assert fact.sentence.endswith(f" is {fact.answer}")


@pytest.mark.parametrize(
    ("noun", "one", "many"),
    [("apple", "an apple", "apples"), ("fish", "a fish", "fish"), ("bus", "a bus", "buses")],
)
def test_words(noun: str, one: str, many: str) -> None:
    assert (scenes.article(noun), scenes.plural(noun)) == (one, many)


# ------------------------------------------------------------------------------------- the judge
def test_the_judge_sees_what_was_painted() -> None:
    for scene in seeded(40):
        assert scenes.recognize_scene(scenes.render_scene(scene)) == scene


def test_the_judge_bears_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    for scene in seeded(12, seed=1):
        pixels = scenes.render_scene(scene).pixels.float()
        noisy = pixels + 25 * torch.randn(pixels.shape, generator=generator)
        assert scenes.recognize_scene(Picture(noisy.clamp(0, 255).to(torch.uint8))) == scene


def test_the_judge_sees_halves_that_were_swapped() -> None:
    for scene in (s for s in seeded(40, seed=2) if not s.uniform):
        along = 1 if scene.layout == "row" else 0
        turned = Picture(scenes.render_scene(scene).pixels.roll(32, dims=along))
        assert scenes.recognize_scene(turned) == replace(scene, objects=scene.objects[::-1])


def test_the_judge_sees_a_background_of_another_colour() -> None:
    pixels = scenes.render_scene(Scene("one", ("dog",), "blue")).pixels.clone()
    old, new = (torch.tensor(BACKGROUNDS[name], dtype=torch.uint8) for name in ("blue", "pink"))
    pixels[(pixels == old).all(-1)] = new
    assert scenes.recognize_scene(Picture(pixels)) == Scene("one", ("dog",), "pink")


def test_the_judge_sees_another_object() -> None:
    three, other = (
        scenes.render_scene(Scene("trio", (o,) * 3, "green")).pixels for o in ("car", "key")
    )
    mixed = three.clone()
    mixed[32:, :32] = other[32:, :32]  # one car of three became a key
    assert scenes.recognize_scene(Picture(mixed)) != Scene("trio", ("car",) * 3, "green")


def test_the_judge_looks_at_one_size() -> None:
    with pytest.raises(DataError, match=r"got \(8, 8, 3\)"):
        scenes.recognize_scene(Picture(torch.zeros(8, 8, 3, dtype=torch.uint8)))


@pytest.mark.slow
def test_no_training_question_is_always_answered_no() -> None:
    """Else "no" is learned by heart for the very scenes that are held out."""
    rng = random.Random(0)
    refused = set()
    for scene in (scenes.sample_scene(rng) for _ in range(4000)):
        (question,) = (q for q in scenes.questions(scene, rng) if q.kind == "presence")
        if question.answer == "no":
            refused.add((question.text, scene.background))
    for text, background in refused:
        noun = next(o for o in OBJECTS if text == f"is there {scenes.article(o)}?")
        pairs = [Scene("row", (noun, o), background) for o in OBJECTS if o != noun]
        assert not all(map(scenes.held_out, pairs))
