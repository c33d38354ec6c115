"""A checkpoint of random weights in the published layout: it converts, opens mapped and answers."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from scripts import random_checkpoint
from tests.evaluation.suites.miniature import MINIATURES, Deaf, Miniature
from tests.io.test_weights import private_bytes

from omni_diffusion import Engine, Image, Inputs, OmniModel, ask
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.evaluation import speech
from omni_diffusion.evaluation.runner import run_benchmark
from omni_diffusion.models.omni import convert
from omni_diffusion.models.upstream import read_configs
from omni_diffusion.vocab import Vocabulary

SMALL = 0.1


def test_full_size_is_the_published_one() -> None:
    full, small = random_checkpoint.reduced(1), random_checkpoint.reduced(SMALL)
    assert full == random_checkpoint.Sizes()
    assert random_checkpoint.reduced(1, 2).backbone.num_layers == 2
    assert small.backbone.vocab_size == full.backbone.vocab_size == Vocabulary.official().size
    assert small.backbone.speech_dim == small.codecs.hearing.dim


def test_shards_are_small_and_complete() -> None:
    wanted = {str(i): torch.empty(10 + i, device="meta") for i in range(9)}
    shards = list(random_checkpoint.split(wanted, 60))
    assert {name: t for shard in shards for name, t in shard.items()} == wanted
    assert all(sum(2 * len(t) for t in shard.values()) <= 60 for shard in shards)
    assert [*random_checkpoint.split(wanted, 1)] == [{name: t} for name, t in wanted.items()]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("random")
    sizes = random_checkpoint.reduced(SMALL)
    size = random_checkpoint.write(root / "published", sizes, shard_bytes=140_000_000)
    folder = root / "published" / "omni"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert index["metadata"]["total_size"] > size  # the speech encoder is in them too
    sources = random_checkpoint.sources(root / "published", sizes)
    assert read_configs(folder, sources).backbone == sizes.backbone
    convert(folder, root / "ours", codec_sources=sources)
    return root / "ours"


def growth(folder: Path) -> tuple[int, int]:
    """Private memory that opening takes beside the text tokenizer, and the weights' bytes."""
    before = private_bytes()
    text = TextCodec.load(folder / "tokenizer.json")
    tokenizer = private_bytes() - before
    model = OmniModel.open(folder, dtype=torch.bfloat16)
    private = private_bytes() - before - 2 * tokenizer
    assert model.codecs.text.vocabulary_size == text.vocabulary_size
    assert model.backbone.lm_head.weight.dtype == torch.bfloat16
    return private, sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_opening_maps_the_files(ours: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        private, stored = pool.apply(growth, (ours,))
    assert private < 0.25 * stored  # what is private does not grow with the weights


@pytest.mark.slow
def test_it_answers(ours: Path) -> None:
    model = OmniModel.open(ours, dtype=torch.bfloat16)
    request = ask("t2i", Inputs("a dog"), steps=2)
    (result,) = Engine(model).run([request])
    assert result.error is None
    [part] = result.parts
    assert isinstance(part, Image)
    assert (part.picture.width, part.picture.height) == (256, 256)


@pytest.fixture(scope="module")
def engine(ours: Path) -> Engine:
    return Engine(OmniModel.open(ours), max_batch=1)


@pytest.mark.slow
@pytest.mark.skipif(bool(speech.missing(*speech.SCORING_PACKAGES)), reason="needs extra eval")
@pytest.mark.parametrize("miniature", MINIATURES, ids=lambda m: m.name)
def test_one_sample_of_each_benchmark_end_to_end(
    miniature: Miniature, engine: Engine, tmp_path: Path
) -> None:
    miniature.write(tmp_path)
    benchmark = miniature.open(tmp_path, overrides={"steps": 2}, transcriber=Deaf)
    result = run_benchmark(benchmark, engine, limit=1)
    assert "failed" not in result["details"]
    assert result["n"] == 1
