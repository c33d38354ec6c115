import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import ConfigError
from omni_diffusion.io import config
from omni_diffusion.vocab import Vocabulary


@dataclass(frozen=True)
class Leaf:
    size: int
    rate: float = 0.5


@dataclass(frozen=True)
class Tree:
    name: str
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (1, "a")
    kind: Literal["paper", "upstream"] = "paper"
    steps: int | None = None
    rate: float | str = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    folder: Path | None = None
    flag: bool = False
    free: Any = None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.builds(Leaf, size=st.integers(), rate=floats)
trees = st.builds(
    Tree,
    name=texts,
    leaf=leaves,
    leaves=st.lists(leaves, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), texts),
    kind=st.sampled_from(["paper", "upstream"]),
    steps=st.none() | st.integers(),
    rate=floats | texts,
    weights=st.dictionaries(texts, floats, max_size=3),
    names=st.lists(texts, max_size=3),
    folder=st.none() | st.just(Path("a/b")),
    flag=st.booleans(),
    free=st.none() | st.integers() | texts,
)


@given(trees)
def test_every_config_survives_json(tree: Tree) -> None:
    assert config.from_dict(Tree, json.loads(json.dumps(config.to_dict(tree)))) == tree


def test_a_file_and_back(tmp_path: Path) -> None:
    tree = Tree("Köln", Leaf(3), leaves=(Leaf(1), Leaf(2)), folder=Path("x"))
    config.save(tree, tmp_path / "tree.json")
    assert config.load(Tree, tmp_path / "tree.json") == tree
    config.save(Vocabulary.official(), tmp_path / "vocab.json")
    assert config.load(Vocabulary, tmp_path / "vocab.json") == Vocabulary.official()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lead": 1}, "unknown key 'lead'; did you mean 'leaf'"),
        ({"zzz": 1}, "unknown key 'zzz'; known keys: name, leaf"),
        ({"leaf": {"sise": 1}}, "config.leaf has an unknown key 'sise'; did you mean 'size'"),
        ({"leaf": {}}, "config.leaf lacks the key 'size'; add it .int"),
        ({"leaf": 3}, "config.leaf is 3; give an object with the keys of Leaf"),
        ({"leaf": {"size": "3"}}, "config.leaf.size is '3' .str.; give int"),
        ({"leaf": {"size": True}}, "config.leaf.size is True .bool.; give int"),
        ({"leaf": {"size": 3.0}}, "config.leaf.size is 3.0 .float.; give int"),
        ({"name": None}, "config.name is None"),
        ({"leaves": {"size": 3}}, "config.leaves is .*give a list"),
        ({"leaves": [{"size": 1}, {"size": "x"}]}, r"config.leaves\[1\].size"),
        ({"pair": [1]}, "config.pair has 1 items; give 2"),
        ({"kind": "papr"}, "config.kind is 'papr'; give one of 'paper', 'upstream'"),
        ({"steps": "four"}, "config.steps is 'four' .str.; give int"),
        ({"rate": []}, "config.rate is .*; give one of float, str"),
        ({"weights": {"a": "b"}}, "config.weights.a is 'b'"),
        ({"weights": {1: 1.0}}, "a key of config.weights is 1"),
        ({"weights": 3}, "config.weights is 3"),
        ({"flag": 1}, "config.flag is 1 .int.; give bool"),
        ({"name": 10**80}, r"000\.\.\. .int"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_fix(change: Mapping[str, Any], message: str) -> None:
    good = config.to_dict(Tree("t", Leaf(1)))
    with pytest.raises(ConfigError, match=message) as caught:
        config.from_dict(Tree, good | dict(change))
    assert "\n" not in str(caught.value)


def test_whole_numbers_pass_for_floats_only() -> None:
    leaf = config.from_dict(Leaf, {"size": 1, "rate": 2})
    assert isinstance(leaf.rate, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"size": 1', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"size": NaN}', "NaN is not a JSON number"),
        ('{"size": 1, "size": 2}', "duplicate key 'size'"),
        ("[]", "leaf.json is .*give an object"),
        ('{"size": "1"}', "leaf.json.size"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "leaf.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(Leaf, path)


def test_unreadable_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.json"):
        config.load(Leaf, tmp_path / "none.json")
    (tmp_path / "latin").write_bytes(b"\xff{}")
    with pytest.raises(ConfigError, match="not valid JSON"):
        config.load(Leaf, tmp_path / "latin")
    with pytest.raises(ConfigError, match="finite plain values"):
        config.save(Leaf(1, rate=float("nan")), tmp_path / "leaf.json")
    with pytest.raises(ConfigError, match="not a config"):
        config.to_dict(Leaf)
    assert [p.name for p in tmp_path.iterdir()] == ["latin"]
