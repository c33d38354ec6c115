"""The small modules whose numbers the published code gave, through the public loaders."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs.glm_voice.estimator import EstimatorConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.token_encoder import TokenEncoderConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig

TOKENIZER = SpeechTokenizerConfig(
    d_model=32, heads=4, ffn=64, layers=2, max_positions=480, codebook_size=256, block_size=24
)
FLOW = FlowConfig(
    vocab_size=64,
    mel_bins=16,
    encoder=TokenEncoderConfig(input_size=24, width=32, heads=4, ffn=48, blocks=2),
    estimator=EstimatorConfig(channels=32, heads=6, head_dim=8, n_blocks=2, mid_blocks=2),
)
HIFT = HiFTConfig(mel_bins=16, base_channels=32, f0_channels=16)


@pytest.fixture(scope="session")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "glm_voice"


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> SpeechTokenizer:
    return SpeechTokenizer.load(folder / "tokenizer_tiny.safetensors", TOKENIZER)


@pytest.fixture(scope="session")
def flow(folder: Path) -> Flow:
    return Flow.load(folder / "flow_tiny.safetensors", FLOW)


@pytest.fixture(scope="session")
def hift(folder: Path) -> HiFT:
    return HiFT.load(folder / "hift_tiny.safetensors", HIFT)


@pytest.fixture(scope="session")
def decoded(folder: Path) -> dict[str, Tensor]:
    """Flow and vocoder together."""
    return load_file(folder / "decoder_tiny_io.safetensors")
