"""Parameters, bytes of memory and FLOPs of a model: the one formula for each.

FLOPs are counted from the sizes of a config, two for each multiply-add of a matrix product. Other
operations take time and count as zero. Modules are built on the meta device, which takes no memory,
so the published model is counted without its weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Literal

import torch
from torch import nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import Quantization, bytes_saved
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.codecs.sensevoice import SenseVoice
from omni_diffusion.codecs.suite import SuiteConfig
from omni_diffusion.io.weights import empty_modules

MAX_TRAINING_LENGTH = 3072  # tokens of a row in the paper's training
LORA_RANK = 16
IN_BACKBONE_DTYPE = ("backbone", "speech_projector")  # codecs are in float32
MATMUL_SIDES = {"cpu": 2048}  # side of the timed matrices, large enough to reach the peak rate
DEFAULT_MATMUL_SIDE = 8192
REPEATS = 9

TrainingMethod = Literal["full", "lora"]


# ---------------------------------------------------------------------------- parameters and bytes
@dataclass(frozen=True)
class ComponentSize:
    """One component of a model: its parameters, and their bytes in memory."""

    parameters: int
    bytes: int


@dataclass(frozen=True)
class ModelSize:
    """The components of a model by name, and what the estimates need.

    dtype: of backbone and projector. understanding_tokens, generation_tokens: image tokens of an
    input image, and of a generated one.
    """

    components: Mapping[str, ComponentSize]
    backbone: DreamConfig
    dtype: torch.dtype
    understanding_tokens: int
    generation_tokens: int

    @property
    def bytes(self) -> int:
        """Bytes of all components."""
        return sum(component.bytes for component in self.components.values())


def model_size(
    backbone: DreamConfig,
    codecs: SuiteConfig,
    voice: GlmVoiceConfig,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> ModelSize:
    """The size of a model: backbone and projector in `dtype`, codecs in float32."""
    components = {
        name: ComponentSize(
            count, count * (dtype if name in IN_BACKBONE_DTYPE else torch.float32).itemsize
        )
        for name, count in parameter_counts(backbone, codecs, voice).items()
    }
    if quantization is not None:
        whole = components["backbone"]
        saved = bytes_saved(backbone, dtype, quantization)
        components["backbone"] = ComponentSize(whole.parameters, whole.bytes - saved)
    image = codecs.image
    return ModelSize(
        components,
        backbone,
        dtype,
        image.tokens(image.understanding_size),
        image.tokens(image.generation_size),
    )


def parameter_counts(
    backbone: DreamConfig, codecs: SuiteConfig, voice: GlmVoiceConfig
) -> dict[str, int]:
    """Parameters of each component, by its name. Griffin-Lim has none and is not listed."""
    with empty_modules():
        dream = Dream(backbone)
        modules: dict[str, nn.Module] = {
            "image": Magvit2(codecs.image),
            "speech_encoder": SenseVoice(codecs.hearing),
            "speech_tokenizer": SpeechTokenizer(voice.tokenizer),
            "speech_flow": Flow(voice.flow),
        }
        if isinstance(voice.vocoder, HiFTConfig):
            modules["speech_vocoder"] = HiFT(voice.vocoder)
    modules["speech_projector"] = dream.model.audio_projection
    counts = {name: count_parameters(module) for name, module in modules.items()}
    return {"backbone": count_parameters(dream) - counts["speech_projector"], **counts}


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module and its children."""
    return sum(parameter.numel() for parameter in module.parameters())


def mapped_bytes(backbone: DreamConfig, dtype: torch.dtype, *, extended: bool) -> int:
    """Bytes of the backbone that stay in memory-mapped files while it is converted.

    extended: embeddings and head get more rows, so they are in memory.
    """
    with empty_modules():
        count = count_parameters(Dream(backbone))
    tables = 2 * backbone.vocab_size * backbone.hidden_size if extended else 0
    return (count - tables) * dtype.itemsize


def forward_bytes(size: ModelSize, tokens: int, masked: int, batch: int = 1) -> int:
    """Bytes of one forward pass of `batch` rows beside the weights.

    They hold the hidden states, the widest layer's products, and logits of the `masked` tokens
    with a float32 copy.
    """
    config, itemsize = size.backbone, size.dtype.itemsize
    hidden = tokens * (6 * config.hidden_size + 2 * config.intermediate_size) * itemsize
    return batch * (hidden + masked * config.vocab_size * (itemsize + 4))


def training_bytes(
    size: ModelSize, method: TrainingMethod, tokens: int = MAX_TRAINING_LENGTH
) -> int:
    """Bytes of one training step with a row of `tokens`, without codecs (codes are made before).

    full: weights, gradients in their dtype, a float32 copy and AdamW's two moments. lora: the
    frozen backbone, and rank-16 factors of all projections trained. With gradient checkpointing:
    each layer's input, one layer in full, and the logits of half the tokens.
    """
    config, itemsize = size.backbone, size.dtype.itemsize
    count = sum(size.components[name].parameters for name in IN_BACKBONE_DTYPE)
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widths = 2 * config.hidden_size + heads + config.num_heads * config.head_dim  # q, k, v and o
    widths += 3 * (config.hidden_size + config.intermediate_size)
    factors = config.num_layers * LORA_RANK * (widths + 2 * config.hidden_size)
    weights = {"full": count * (2 * itemsize + 12), "lora": count * itemsize + factors * 16}
    inputs = config.num_layers * tokens * config.hidden_size * itemsize
    layer = tokens * (10 * config.hidden_size + 4 * config.intermediate_size) * itemsize
    logits = tokens // 2 * config.vocab_size * (itemsize + 8)
    return weights[method] + inputs + layer + logits


# ------------------------------------------------------------------------------------------- FLOPs
@dataclass(frozen=True)
class Work:
    """The sizes of a forward pass over B rows of L tokens, with padding.

    tokens: B * L. length: L. head_tokens: tokens whose logits are computed (the masked ones).
    frames: speech frames that pass the adapter.
    """

    tokens: int
    length: int
    head_tokens: int
    frames: int = 0


def block_flops(config: DreamConfig, work: Work) -> int:
    """FLOPs of a forward pass of all blocks: projections, feed-forward and attention.

    Every token attends to its whole row. Segments mask products; they do not save them.
    """
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    projections = config.hidden_size * (2 * queries + 2 * keys)
    feed_forward = 3 * config.hidden_size * config.intermediate_size
    attention = 2 * queries * work.length  # scores, and the weighted sum of values
    return 2 * config.num_layers * work.tokens * (projections + feed_forward + attention)


def forward_flops(config: DreamConfig, work: Work) -> int:
    """FLOPs of a forward pass: blocks, head on `head_tokens`, adapter on `frames`."""
    head = work.head_tokens * config.hidden_size * config.vocab_size
    adapter = work.frames * config.hidden_size * (config.speech_dim + config.hidden_size)
    return block_flops(config, work) + 2 * (head + adapter)


def matmul_peak(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    threads: int | None = None,
    side: int | None = None,
) -> float:
    """FLOPs per second of a square matrix product, the median of a few.

    Measured once per process. threads: CPU threads, by default torch's current number. side: of
    the matrices, by default so large that the product reaches the peak rate. Keeps the random
    state and the number of threads.
    """
    device = torch.device(device)
    side = side or MATMUL_SIDES.get(device.type, DEFAULT_MATMUL_SIDE)
    return _peak(device, dtype, threads or torch.get_num_threads(), side)


@cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int, side: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(device, dtype, side)
    finally:
        torch.set_num_threads(before)


def _measured(device: torch.device, dtype: torch.dtype, side: int) -> float:
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(side, side, generator=generator, device=device).to(dtype)
    seconds = []
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
