"""The four codecs in one folder: what is written comes back, what is missing is named."""

from pathlib import Path

import pytest
import torch
from tests.tiny import checkers, tiny_suite, tone

from omni_diffusion.codecs.suite import CodecSuite, SuiteConfig
from omni_diffusion.errors import ModelError, OmniError

CPU = torch.device("cpu")


def test_an_opened_suite_encodes_and_decodes_alike(tmp_path: Path) -> None:
    suite = tiny_suite()
    suite.save(tmp_path)
    again = CodecSuite.open(tmp_path, suite.config, CPU)
    assert torch.equal(again.text.encode("a dog"), suite.text.encode("a dog"))
    assert torch.equal(again.image.encode(checkers()), suite.image.encode(checkers()))
    assert torch.equal(again.hearing.encode(tone()), suite.hearing.encode(tone()))
    ids = suite.speech.encode(tone())
    assert torch.equal(again.speech.encode(tone()), ids)
    assert torch.equal(again.speech.decode(ids).samples, suite.speech.decode(ids).samples)


def test_half_precision_halves_the_files_and_opens_as_float32(tmp_path: Path) -> None:
    suite = tiny_suite()
    suite.save(tmp_path)
    whole = _bytes(tmp_path)
    suite.save(tmp_path, torch.float16)
    assert _bytes(tmp_path) < 0.6 * whole
    again = CodecSuite.open(tmp_path, suite.config, CPU)
    for module in (again.image, again.hearing, again.speech):
        assert all(tensor.dtype == torch.float32 for tensor in module.parameters())
    assert all(tensor.dtype == torch.float32 for tensor in suite.speech.parameters())


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "image.safetensors", "hearing.safetensors", "am.mvn"]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    suite = tiny_suite()
    suite.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OmniError, match=name):
        CodecSuite.open(tmp_path, suite.config, CPU)


def test_an_empty_folder_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        CodecSuite.open(tmp_path, SuiteConfig.mini(), CPU)


def test_published_sizes() -> None:
    sizes = SuiteConfig.official()
    assert sizes.image.tokens(sizes.image.understanding_size) == 1024
    assert sizes.image.tokens(sizes.image.generation_size) == 256
    assert sizes.hearing.dim == 512


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
