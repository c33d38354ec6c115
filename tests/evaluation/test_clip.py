"""CLIP through transformers, on a tiny model of random weights that a test makes."""

import json
from pathlib import Path

import pytest
import torch
from tests.tiny import checkers

from omni_diffusion.errors import EvaluationError
from omni_diffusion.evaluation.clip import DEVIATION, MEAN, ClipJudge, clip_pixels, similarity
from omni_diffusion.media import Picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder: config, weights, and a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    names |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    described = {"tokenizer_class": "CLIPTokenizer", **names}
    (path / "tokenizer_config.json").write_text(json.dumps(described))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    sizes["num_hidden_layers"] = 1
    ends = {
        "bos_token_id": len(words),
        "eos_token_id": len(words) + 1,
        "vocab_size": len(vocabulary),
    }
    text = {**sizes, **ends, "max_position_embeddings": 8}
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(path)
    return path


@pytest.mark.slow
def test_embeddings_are_those_of_transformers_with_a_stated_version(folder: Path) -> None:
    import transformers

    judge = ClipJudge.open(folder)
    assert judge.version == f"{folder.name}, transformers {transformers.__version__}"
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(["a dog"], return_tensors="pt")
    picture = checkers(8)
    with torch.no_grad():
        out = model(**ids, pixel_values=clip_pixels(picture, 8)[None])
        expected = float(out.logits_per_image / model.logit_scale.exp())
    text, image = judge.embed_text("a dog"), judge.embed_picture(picture)
    assert similarity(text, image) == pytest.approx(expected, abs=1e-5)
    assert similarity(image, image) == pytest.approx(1)


@pytest.mark.slow
def test_a_long_text_is_cut_to_the_model(folder: Path) -> None:
    judge = ClipJudge.open(folder)
    assert torch.equal(judge.embed_text("dog " * 9), judge.embed_text("dog " * 20))


def test_a_picture_is_scaled_along_its_shorter_edge_and_cropped() -> None:
    wide = torch.zeros(10, 30, 3, dtype=torch.uint8)
    wide[:, 10:20] = 255
    pixels = clip_pixels(Picture(wide), 10)
    white = (1 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    torch.testing.assert_close(pixels, white[:, None, None].expand(3, 10, 10))


@pytest.mark.slow
def test_a_clip_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be opened") as raised:
        ClipJudge.open(tmp_path)
    assert raised.value.field == "clip"
