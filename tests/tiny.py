"""A tiny model of random weights for tests: all four codecs and a backbone.

Its answers have the right shapes and no meaning.
"""

from __future__ import annotations

import torch

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs.glm_voice.codec import GlmVoice
from omni_diffusion.codecs.glm_voice.estimator import EstimatorConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.griffin_lim import GriffinLim
from omni_diffusion.codecs.glm_voice.token_encoder import TokenEncoderConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.codecs.sensevoice import SenseVoice, SenseVoiceConfig
from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import ModelConfig, OmniModel
from omni_diffusion.vocab import Vocabulary

SENTENCES = (
    "a red apple on a blue background",
    "two dogs to the left of a tree",
    "what color is the background?",
    "Generate an image based on the provided text description.\n",
    "Please response the input audio based on the given image.",
    "Convert the text to speech.\nuser\nassistant\nsystem\n",
)
SPEECH_CODES = 32
IMAGE = Magvit2Config(
    channels=8,
    multipliers=(1, 1),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    bits=4,
    groups=4,
    understanding_size=12,
    generation_size=8,
)
HEARING = SenseVoiceConfig(dim=16, heads=2, ffn=16, blocks=1, tp_blocks=0)
SPEECH_TOKENIZER = SpeechTokenizerConfig(
    d_model=16, heads=2, ffn=16, layers=1, n_mels=80, codebook_size=SPEECH_CODES
)
FLOW = FlowConfig(
    vocab_size=SPEECH_CODES,
    encoder=TokenEncoderConfig(input_size=8, width=8, heads=1, ffn=8, blocks=1),
    estimator=EstimatorConfig(channels=8, heads=1, head_dim=8, n_blocks=1, mid_blocks=1),
)


def tiny_suite() -> CodecSuite:
    """Codecs for text, image, speech features and speech codes, with random weights.

    An input image has 36 codes, a generated one 16 (4 x 4 cells of 2 pixels).
    """
    cmvn = torch.stack([torch.zeros(HEARING.feature_width), torch.ones(HEARING.feature_width)])
    voice = GriffinLim(iterations=1, mel_iterations=1)
    return CodecSuite(
        text=TextCodec.train(SENTENCES, 300),
        image=Magvit2(IMAGE).eval(),
        hearing=SenseVoice(HEARING, cmvn).eval(),
        speech=GlmVoice(SpeechTokenizer(SPEECH_TOKENIZER), Flow(FLOW), voice).eval(),
    )


def tiny_model(seed: int = 0) -> OmniModel:
    """A model whose random weights depend on `seed` only."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codecs = tiny_suite()
        vocabulary = Vocabulary(
            text_size=codecs.text.vocabulary_size, speech_size=SPEECH_CODES, image_size=IMAGE.codes
        )
        sizes = DreamConfig(
            vocab_size=vocabulary.size,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
            intermediate_size=48,
            max_positions=1024,
            speech_dim=HEARING.dim,
        )
        config = ModelConfig("tiny", vocabulary, sizes, codecs.config)
        return OmniModel(config, codecs, Dream(sizes))


def tone(seconds: float = 0.5, rate: int = 16_000, hertz: float = 220.0) -> Waveform:
    """A sine tone with one channel."""
    time = torch.arange(int(seconds * rate)) / rate
    return Waveform(0.3 * torch.sin(2 * torch.pi * hertz * time)[None], rate)


def checkers(side: int = 8) -> Picture:
    """A square image of random pixels, the same in every call."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    return Picture(pixels)
