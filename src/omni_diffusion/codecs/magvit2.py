"""MAGVIT-v2: an image as a grid of lookup-free codes, and back.

Each grid cell is `bits` signs; the signs read as a binary number are the local id, so no codebook
is stored. Keep the model in float32: the published weights are never cast.
"Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (Yu et al., 2023).

Dimensions: B batch, H x W pixels, h x w cells (h = H / stride), C channels, N = h * w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from omni_diffusion.codecs.base import finite
from omni_diffusion.errors import ConfigError, MediaError
from omni_diffusion.io import config as configs
from omni_diffusion.io import weights
from omni_diffusion.media import MAX_SIDE, Picture

_EPS = 1e-6
_NEAR = 3e-5  # of the latents' RMS: ten times the effect of batching on 1.3 million latents
LONGEST_ASPECT = 100  # a 1 x 10000 strip would be enlarged to gigabytes before the crop


@dataclass(frozen=True)
class Magvit2Config:
    """Sizes of the tokenizer. Level 0 is the finest; every level but the last halves the image.

    Encoder level L goes from `multipliers[L - 1]` (1 for level 0) to `multipliers[L]` times
    `channels`; decoder level L goes back.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    bits: int = 13
    groups: int = 32
    understanding_size: int = 512
    generation_size: int = 256

    def __post_init__(self) -> None:
        configs.check_ranges(
            self,
            channels=configs.WIDTH,
            multipliers=(1, 1024),
            encoder_blocks=(0, 256),
            decoder_blocks=(0, 256),
            bits=(1, 62),
            groups=configs.WIDTH,
            understanding_size=(1, MAX_SIDE),
            generation_size=(1, MAX_SIDE),
        )
        levels = len(self.multipliers)
        if not len(self.encoder_blocks) == len(self.decoder_blocks) == levels >= 1:
            raise ConfigError(
                f"magvit2 has {levels} multipliers, {len(self.encoder_blocks)} encoder_blocks and "
                f"{len(self.decoder_blocks)} decoder_blocks",
                field="multipliers",
                value=self.multipliers,
                fix="give one of each per level",
            )
        for width in self.widths:
            if width % self.groups:
                raise ConfigError(
                    f"magvit2 width {width} is not a multiple of groups={self.groups}",
                    field="groups",
                    value=self.groups,
                    fix="change channels or groups",
                )
        for name in ("understanding_size", "generation_size"):
            size = getattr(self, name)
            if size < 1 or size % self.stride:
                raise ConfigError(
                    f"magvit2 {name} is {size}",
                    field=name,
                    value=size,
                    fix=f"give a multiple of the stride {self.stride}",
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels before level 0, then after each encoder level."""
        return (self.channels, *(self.channels * m for m in self.multipliers))

    @property
    def stride(self) -> int:
        """Pixels per cell, along each side."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def codes(self) -> int:
        """The number of local ids: 2 ** bits."""
        return int(2**self.bits)

    def tokens(self, size: int) -> int:
        """Cells of a square image of `size` pixels a side."""
        return (size // self.stride) ** 2

    @classmethod
    def official(cls) -> Self:
        """The official sizes: 8192 codes, 512 pixels -> 1024 cells, 256 pixels -> 256 cells."""
        return cls()

    @classmethod
    def mini(cls) -> Self:
        """64 pixels -> 8 x 8 cells of 1024 codes; small enough to train on one CPU core."""
        return cls(
            channels=16,
            multipliers=(1, 2, 4, 4),
            encoder_blocks=(1, 1, 1, 2),
            decoder_blocks=(1, 2, 2, 2),
            bits=10,
            groups=8,
            understanding_size=64,
            generation_size=64,
        )


class _ResBlock(nn.Module):
    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps=_EPS)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        straight: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return straight + residual


class _Attention(nn.Module):
    """One head over all h * w cells."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (  # each [B, 1, N, C]
            conv(normed).flatten(2).transpose(1, 2).unsqueeze(1)
            for conv in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        projected: Tensor = self.proj_out(mixed.reshape(x.shape))
        return x + projected


class _Mid(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = _ResBlock(width, width, groups)
        self.attn_1 = _Attention(width, groups)
        self.block_2 = _ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only, as published
        return y


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class _Level(nn.Module):
    """Residual blocks at one resolution, the first of which changes the width; then resampling."""

    def __init__(self, width_in: int, width: int, blocks: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResBlock(width if j else width_in, width, groups) for j in range(blocks)
        )
        self.downsample: _Downsample | None = None
        self.upsample: _Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x = resample(x)
        return x


class _Encoder(nn.Module):
    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, blocks in enumerate(config.encoder_blocks):
            stage = _Level(widths[level], widths[level + 1], blocks, groups)
            if level + 1 < len(config.encoder_blocks):
                stage.downsample = _Downsample(widths[level + 1])
            self.down.append(stage)
        self.mid = _Mid(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        z: Tensor = self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))
        return z


class _Decoder(nn.Module):
    """Mirrors the encoder: levels are stored finest first and run in reverse order."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid = _Mid(widths[-1], groups)
        self.up = nn.ModuleList()
        for level, blocks in enumerate(config.decoder_blocks):
            stage = _Level(widths[level + 1], widths[level], blocks, groups)
            if level:
                stage.upsample = _Upsample(widths[level])
            self.up.append(stage)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(codes)))
        for stage in reversed(self.up):
            x = stage(x)
        pixels: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return pixels


class Magvit2(nn.Module):
    """The image tokenizer. Parameters have the names of the published checkpoint."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Tensor], config: Magvit2Config | None = None
    ) -> Self:
        """The model in eval mode, from a weight file, a folder holding one, or open tensors.

        The codebook tables of the published checkpoint are derived values and are skipped.
        Raises WeightsError if names or shapes do not fit `config` (default: official).
        """
        sizes = config or Magvit2Config.official()
        model = weights.module_for(lambda: cls(sizes), source)
        if isinstance(source, Mapping):
            tensors, where = source, "the given tensors"
        else:
            tensors, where = weights.read_tensors(source), f"the weights at {source}"
        weights.load_into(model, tensors, rename=checkpoint_name, where=where)
        return model.eval()

    @property
    def vocabulary_size(self) -> int:
        """The number of local ids."""
        return self.config.codes

    def encode_latents(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] -> latents z [B, bits, h, w], before quantizing.

        Raises MediaError for another shape, or if the stride does not divide H and W.
        """
        shape, stride = tuple(pixels.shape), self.config.stride
        if len(shape) != 4 or shape[1] != 3 or any(s < 1 or s % stride for s in shape[2:]):
            raise MediaError(
                f"pixels of shape {shape}, expected [B, 3, H, W], H and W multiples of {stride}",
                field="pixels",
                value=shape,
                fix="resize or crop first",
            )
        z: Tensor = self.encoder(pixels)
        return z

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [B, bits, h, w] -> codes of -1 and +1 (same shape), local ids int64 [B, h * w].

        A bit is 1 where z > 0 (0 for zero and NaN); channel 0 is the highest bit. The gradient of
        codes passes to z unchanged (straight-through).
        """
        bits = z > 0
        signs = torch.where(bits, 1.0, -1.0).to(z.dtype)
        codes = signs + (z - z.detach()) if z.requires_grad else signs
        return codes, (bits * (1 << self._shifts(z.device))).sum(1).flatten(1)

    def codes_of(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Local ids [B, h * w] in row-major order -> codes of -1 and +1 [B, bits, h, w].

        grid: (h, w); square by default. Raises MediaError for a count that does not fill the grid,
        or an id outside the codebook.
        """
        height, width = self._grid(ids.shape[-1], grid)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.codes:
            raise MediaError(
                f"image ids range from {int(ids.min())} to {int(ids.max())}, expected local ids "
                f"from 0 to {self.config.codes - 1}",
                field="ids",
                fix="subtract the vocabulary's offset first",
            )
        cells = ids.long().reshape(-1, 1, height, width)
        bits = (cells >> self._shifts(ids.device)) & 1
        return (2 * bits - 1).to(self.decoder.post_quant_conv.weight.dtype)

    def decode_latents(self, codes: Tensor) -> Tensor:
        """Codes [B, bits, h, w] -> pixels [B, 3, H, W], nominally in [-1, 1] but unbounded."""
        pixels: Tensor = self.decoder(codes)
        return pixels

    def encode(self, picture: Picture, size: int | None = None) -> Tensor:
        """Local ids int64 [h * w] of the center square of an image, `size` pixels a side.

        size: by default `generation_size` of the config.
        """
        return self.encode_batch([picture], size)[0]

    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Picture:
        """The image of local ids [h * w]; grid: (h, w), square by default."""
        if ids.ndim != 1:
            raise MediaError(
                f"image ids of shape {tuple(ids.shape)}",
                field="ids",
                value=tuple(ids.shape),
                fix="give one row [h * w]",
            )
        return self.decode_batch(ids.unsqueeze(0), grid)[0]

    @torch.no_grad()
    def encode_batch(self, pictures: Sequence[Picture], size: int | None = None) -> Tensor:
        """Local ids int64 [B, h * w] of B images at one size, equal to those of `encode`.

        Raises ModelError for latents that are not finite, as `decode_batch` does for pixels.

        Kernels depend on the batch size and round differently, so an image with a latent close to 0
        is encoded again by itself. This covers float32, not TF32.
        """
        if not pictures:
            raise MediaError("no images to encode", field="pictures", fix="give at least one")
        side = self.config.generation_size if size is None else size
        pixels = torch.stack([pixels_of(picture, side) for picture in pictures]).to(self._weight)
        z = finite(self.encode_latents(pixels), "image encoder")
        if len(pixels) > 1:
            near = z.abs() < _NEAR * z.square().mean().sqrt()
            for row in near.flatten(1).any(1).nonzero().flatten().tolist():
                z[row] = self.encode_latents(pixels[row : row + 1])[0]
        return self.quantize(z)[1]

    @torch.no_grad()
    def decode_batch(self, ids: Tensor, grid: tuple[int, int] | None = None) -> list[Picture]:
        """The B images of local ids [B, h * w]."""
        codes = self.codes_of(ids.to(self._weight.device), grid)
        pixels = finite(self.decode_latents(codes), "image decoder")
        return [picture_of(image) for image in pixels]

    @property
    def _weight(self) -> Tensor:
        return self.encoder.conv_in.weight

    def _shifts(self, device: torch.device) -> Tensor:
        """Exponent of each channel's bit in the id, highest first: int64 [bits, 1, 1]."""
        return torch.arange(self.config.bits - 1, -1, -1, device=device).reshape(-1, 1, 1)

    def _grid(self, count: int, grid: tuple[int, int] | None) -> tuple[int, int]:
        side = math.isqrt(count)
        height, width = grid or (side, side)
        if height < 1 or width < 1 or height * width != count:
            expected = f"{height} x {width} = {height * width}" if grid else "a square number"
            raise MediaError(
                f"{count} image ids, expected {expected}",
                field="grid",
                value=grid,
                fix="give the grid as (rows, columns)",
            )
        return height, width


def checkpoint_name(name: str) -> str | None:
    """The same name; None for the derived codebook tables, which are not loaded."""
    return None if name.startswith("quantize.") else name


def pixels_of(picture: Picture, size: int) -> Tensor:
    """Center square of an image as float32 [3, size, size] in [-1, 1]; raises as `square`."""
    return (square(picture, size).pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def square(picture: Picture, size: int) -> Picture:
    """Center square of an image, `size` pixels a side; one of that size is unchanged.

    The short side is resized to `size` (bicubic), the long one is truncated to whole pixels; the
    rest is cropped, with the offset rounded half to even. This is the published preprocessing.
    Raises MediaError for an extreme aspect ratio.
    """
    width, height = picture.width, picture.height
    short, long = sorted((width, height))
    if size < 1:
        raise MediaError(f"size is {size}", field="size", value=size, fix="give 1 or more")
    check_aspect(width, height)
    image = picture.to_pil()
    scaled = int(size * long / short)
    resized = (size, scaled) if width <= height else (scaled, size)
    if resized != (width, height):
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in resized)
    return Picture.from_pil(image.crop((left, top, left + size, top + size)))


def check_aspect(width: int, height: int) -> None:
    """Raise MediaError for a picture whose sides are not within 1 : 100."""
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise MediaError(
            f"the picture is {width} x {height}",
            value=(width, height),
            fix=f"crop it to sides within 1 : {LONGEST_ASPECT}",
        )


def picture_of(pixels: Tensor) -> Picture:
    """Pixels [3, H, W], nominally in [-1, 1] -> image; clamped and truncated, not rounded."""
    unit = ((pixels.float() + 1) / 2).clamp(0, 1)
    return Picture((unit * 255).to(torch.uint8).permute(1, 2, 0).cpu().contiguous())
