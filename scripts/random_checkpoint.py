"""Write the published checkpoint's folders with random weights, at full size or reduced.

    python -m scripts.random_checkpoint OUT [--scale 1.0] [--layers N]

OUT gets the folders omni, magvitv2, tokenizer, decoder and sensevoice in the published layouts,
with the published vocabulary of 176,264 ids, and sizes.json for `convert --sizes`. The answers of
such a model mean nothing; its files, times and memory are those of a real one. `--scale` shrinks
widths and depths of every part in proportion, `--layers` sets the depth of the backbone. Shards are
made and written one after the other, so the memory taken is that of the largest one. OUT appears
complete or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from omni_diffusion.backbone.config import UPSTREAM_FIELDS, DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.estimator import NORM_GROUPS, EstimatorConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.token_encoder import TokenEncoderConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.codecs.sensevoice import CMVN_FILE, OMNI_PREFIX, SenseVoice, SenseVoiceConfig
from omni_diffusion.io import config as configs
from omni_diffusion.io import files, weights
from omni_diffusion.models.upstream import TOKENIZER_FIELDS, CodecConfigs, CodecSources
from omni_diffusion.vocab import Vocabulary

POOL = 4_194_301  # random numbers that all weights share; a prime, so that no two rows are equal
SHARD_BYTES = 2_000_000_000
OMNI, IMAGE, TOKENIZER = "omni", "magvitv2", "tokenizer"
DECODER, HEARING = "decoder", "sensevoice"
SIZES_FILE = "sizes.json"
UNNORMED = ("source_downs", "l_linear", "classifier")  # layers of HiFT without weight norm
HEAD_DIM = 128  # of the published backbone, at every scale


@dataclass(frozen=True)
class Sizes:
    """The configs of all parts of a checkpoint."""

    backbone: DreamConfig = field(default_factory=DreamConfig.dream_7b)
    codecs: CodecConfigs = field(default_factory=CodecConfigs)
    tokenizer: SpeechTokenizerConfig = field(default_factory=SpeechTokenizerConfig.official)


def reduced(scale: float, layers: int | None = None) -> Sizes:
    """The published sizes times `scale`, rounded to what the parts allow; 1 changes nothing.

    Vocabulary, codes, picture sizes and the mel are the published ones at every scale.
    """
    full = Sizes()
    backbone, codecs, tokenizer = full.backbone, full.codecs, full.tokenizer
    if scale != 1:
        kv_heads = multiple(backbone.num_kv_heads * scale)
        heads = multiple(backbone.num_heads * scale, kv_heads)
        image = replace(codecs.image, channels=multiple(codecs.image.channels * scale, 32))
        hearing = SenseVoiceConfig(
            dim=multiple(codecs.hearing.dim * scale, 4),
            ffn=multiple(codecs.hearing.ffn * scale, 4),
            blocks=multiple(codecs.hearing.blocks * scale),
            tp_blocks=multiple(codecs.hearing.tp_blocks * scale),
            posenc_dtype=codecs.hearing.posenc_dtype,
            resampling=codecs.hearing.resampling,
        )
        backbone = replace(
            backbone,
            hidden_size=heads * HEAD_DIM,
            num_heads=heads,
            num_kv_heads=kv_heads,
            num_layers=multiple(backbone.num_layers * scale),
            intermediate_size=multiple(backbone.intermediate_size * scale, HEAD_DIM),
            speech_dim=hearing.dim,
        )
        codecs = CodecConfigs(image, hearing, reduced_flow(scale), reduced_vocoder(scale))
        width = multiple(tokenizer.heads * scale) * (tokenizer.d_model // tokenizer.heads)
        tokenizer = replace(
            tokenizer,
            d_model=width,
            heads=multiple(tokenizer.heads * scale),
            ffn=4 * width,
            layers=multiple(tokenizer.layers * scale),
        )
    if layers is not None:
        backbone = replace(backbone, num_layers=layers)
    return Sizes(backbone, codecs, tokenizer)


def reduced_flow(scale: float) -> FlowConfig:
    full = FlowConfig.official()
    encoder, estimator = full.encoder, full.estimator
    width = multiple(encoder.width * scale, encoder.heads * 2)
    return replace(
        full,
        encoder=TokenEncoderConfig(
            input_size=width,
            width=width,
            heads=encoder.heads,
            ffn=4 * width,
            blocks=multiple(encoder.blocks * scale),
        ),
        estimator=EstimatorConfig(
            channels=multiple(estimator.channels * scale, NORM_GROUPS),
            heads=multiple(estimator.heads * scale),
            mid_blocks=multiple(estimator.mid_blocks * scale),
        ),
    )


def reduced_vocoder(scale: float) -> HiFTConfig:
    full = HiFTConfig.official()
    width = multiple(full.base_channels * scale, 4)
    return HiFTConfig(base_channels=width, f0_channels=width)


def multiple(value: float, of: int = 1) -> int:
    """The multiple of `of` nearest to `value`, at least one."""
    return max(1, round(value / of)) * of


def sources(root: Path, sizes: Sizes) -> CodecSources:
    """The codecs below `root`, for `models.omni.convert`."""
    names = (IMAGE, TOKENIZER, DECODER, HEARING)
    return CodecSources(*(root / name for name in names), sizes=sizes.codecs)


def convert_options(root: Path) -> list[str]:
    """The options of `omni-diffusion convert` for the codecs below `root`."""
    folders = {
        "--image-codec": root / IMAGE,
        "--speech-tokenizer": root / TOKENIZER,
        "--speech-decoder": root / DECODER,
        "--speech-encoder": root / HEARING,
        "--sizes": root / SIZES_FILE,
    }
    return [str(word) for pair in folders.items() for word in pair]


def write(root: Path, sizes: Sizes, *, shard_bytes: int = SHARD_BYTES, seed: int = 0) -> int:
    """Write all folders below `root`, which is new or empty; returns the backbone's bytes."""
    numbers = RandomNumbers(seed)
    with files.atomic_folder(root) as staged:
        for name in (OMNI, IMAGE, TOKENIZER, DECODER, HEARING):
            (staged / name).mkdir()
        codecs = sizes.codecs
        write_part(numbers, Magvit2, codecs.image, staged / IMAGE / "pytorch_model.safetensors")
        write_part(
            numbers, SpeechTokenizer, sizes.tokenizer, staged / TOKENIZER / "model.safetensors"
        )
        stated = {
            theirs: getattr(sizes.tokenizer, ours) for ours, theirs in TOKENIZER_FIELDS.items()
        }
        write_json(
            staged / TOKENIZER / "config.json",
            {"model_type": "whisper", "pooling_type": "avg", **stated},
        )
        torch.save(numbers.fill(shapes(Flow, codecs.flow)), staged / DECODER / "flow.pt")
        vocoder = with_weight_norm(numbers.fill(shapes(HiFT, codecs.vocoder)))
        torch.save(vocoder, staged / DECODER / "hift.pt")
        width = codecs.hearing.feature_width
        cmvn = torch.stack([torch.zeros(width), torch.ones(width)])
        fbank.write_cmvn(cmvn, staged / HEARING / CMVN_FILE)
        configs.save(codecs, staged / SIZES_FILE)
        write_tokenizer(staged / OMNI)
        write_config(staged / OMNI, sizes.backbone)
        return write_backbone(numbers, staged / OMNI, sizes, shard_bytes)


class RandomNumbers:
    """Fills tensors from one pool of normal numbers, which is faster than drawing each."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pool = torch.randn(POOL, generator=generator)
        self.at = 0

    def fill(
        self, wanted: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Tensors of the wanted shapes: matrices of variance 1/inputs, norms 1, biases 0."""
        return {name: self._one(name, like.shape, dtype) for name, like in wanted.items()}

    def _one(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if len(shape) < 2:
            value = 0.0 if name.endswith("bias") else 1.0
            return torch.full(shape, value, dtype=dtype)
        out = torch.empty(shape, dtype=dtype)
        flat, scale = out.view(-1), 1 / math.sqrt(math.prod(shape[1:]))
        start = 0
        while start < len(flat):
            piece = self.pool[self.at : self.at + len(flat) - start]
            flat[start : start + len(piece)] = piece * scale
            start += len(piece)
            self.at = (self.at + len(piece)) % POOL
        return out


def shapes(kind: type[nn.Module], config: object) -> dict[str, Tensor]:
    """A module's tensors on the meta device."""
    with torch.device("meta"):
        return kind(config).state_dict()


def write_part(numbers: RandomNumbers, kind: type[nn.Module], config: object, path: Path) -> None:
    weights.write_tensors(numbers.fill(shapes(kind, config)), path)


def write_backbone(numbers: RandomNumbers, folder: Path, sizes: Sizes, shard_bytes: int) -> int:
    """Write the shards of backbone and speech encoder in bfloat16, then their index."""
    wanted = shapes(Dream, sizes.backbone)
    size = sum(2 * like.numel() for like in wanted.values())
    encoder = shapes(SenseVoice, sizes.codecs.hearing)
    wanted |= {OMNI_PREFIX + name: like for name, like in encoder.items()}
    shards = list(split(wanted, shard_bytes))
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights.write_tensors(numbers.fill(shard, torch.bfloat16), path, max_shard_bytes=2**62)
        weight_map |= dict.fromkeys(shard, path.name)
    total = sum(2 * like.numel() for like in wanted.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return size


def split(wanted: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in order, in groups of at most `shard_bytes` (a larger tensor is alone)."""
    shard: dict[str, Tensor] = {}
    room = shard_bytes
    for name, like in wanted.items():
        if shard and 2 * like.numel() > room:
            yield shard
            shard, room = {}, shard_bytes
        shard[name] = like
        room -= 2 * like.numel()
    yield shard


def with_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HiFT as it is published: a norm and a direction for each convolution."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 3 and not any(part in name for part in UNNORMED):
            norm = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            out |= {f"{name}_g": norm, f"{name}_v": tensor}
        else:
            out[name] = tensor
    return out


def write_tokenizer(folder: Path) -> None:
    """A tokenizer with the published ids: single bytes, placeholders for the merged tokens."""
    vocabulary = Vocabulary.official()
    letters = {letter: id for id, letter in enumerate(sorted(ByteLevel.alphabet()))}
    vocab = letters | {f"<{id}>": id for id in range(len(letters), vocabulary.text_size)}
    write_json(folder / "vocab.json", vocab)
    files.write_text(folder / "merges.txt", "#version: 0.2\n")
    ids = range(vocabulary.specials.start, vocabulary.size)
    write_json(folder / "added_tokens.json", {vocabulary.token(id): id for id in ids})


def write_config(folder: Path, sizes: DreamConfig) -> None:
    stated = {theirs: getattr(sizes, ours) for ours, theirs in UPSTREAM_FIELDS.items()}
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "head_dim": sizes.head_dim,
        "torch_dtype": "bfloat16",
        **stated,
    }
    write_json(folder / "config.json", config)


def write_json(path: Path, data: object) -> None:
    files.write_text(path, json.dumps(data) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write; new or empty")
    parser.add_argument("--scale", type=float, default=1.0, help="of widths and depths (default 1)")
    parser.add_argument("--layers", type=int, help="of the backbone (default: as --scale says)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    given = parser.parse_args()
    sizes = reduced(given.scale, given.layers)
    size = write(given.out, sizes, seed=given.seed)
    options = " ".join(convert_options(given.out))
    print(f"the backbone has {size:,} bytes")
    print(f"omni-diffusion convert {given.out / OMNI} OUT {options}")


if __name__ == "__main__":
    main()
