"""CLIP as a judge: how well a picture fits a text (CLIP-T) or another picture (CLIP-I).

Needs transformers (extra "hub"), imported only when used. The weights are read from a folder or the
hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from PIL import Image as PilImage
from torch import Tensor
from torch.nn import functional as F

from omni_diffusion.errors import EvaluationError
from omni_diffusion.io.optional import require
from omni_diffusion.media import Picture

CLIP = "openai/clip-vit-base-patch32"
"""The paper does not name its CLIP; this is the usual one, whose cosines lie where its do."""
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, by channel
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class PictureJudge(Protocol):
    """Embeds pictures and texts into one space; `version` says which judge it is."""

    version: str

    def embed_text(self, text: str) -> Tensor:
        """A unit vector [dim]."""
        ...

    def embed_picture(self, picture: Picture) -> Tensor:
        """A unit vector [dim]."""
        ...


class ClipJudge:
    """A CLIP model of transformers.

    A picture is scaled to the model's side along its shorter edge (bicubic) and cropped to its
    centre; a text is cut to the model's length.
    """

    def __init__(self, model: Any, tokenizer: Any, version: str) -> None:
        self._model, self._tokenizer, self.version = model.eval(), tokenizer, version

    @classmethod
    def open(cls, source: str | Path = CLIP, device: str = "cpu") -> Self:
        """Read a CLIP from a folder or, where the library may, from the hub.

        Raises MissingDependencyError without transformers, EvaluationError for a model that is not
        there.
        """
        transformers = require("transformers", "clip")
        try:
            model = transformers.CLIPModel.from_pretrained(source)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise EvaluationError(
                f"CLIP {str(source)!r} cannot be opened ({line})",
                field="clip",
                value=str(source),
                fix=f"give the folder of a CLIP such as {CLIP}",
            ) from error
        name = Path(source).name if Path(source).is_dir() else source
        return cls(model.to(device), tokenizer, f"{name}, transformers {transformers.__version__}")

    @torch.inference_mode()
    def embed_text(self, text: str) -> Tensor:
        """A unit vector [dim] on the CPU."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        ids = {key: tokens[key].to(self._model.device) for key in ("input_ids", "attention_mask")}
        pooled = self._model.text_model(**ids).pooler_output
        return _unit(self._model.text_projection(pooled))

    @torch.inference_mode()
    def embed_picture(self, picture: Picture) -> Tensor:
        """A unit vector [dim] on the CPU."""
        side = self._model.config.vision_config.image_size
        pixels = clip_pixels(picture, side)[None].to(self._model.device)
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return _unit(self._model.visual_projection(pooled))


def similarity(one: Tensor, other: Tensor) -> float:
    """The cosine of two unit vectors [dim]; below 0 where they point apart."""
    return float(one @ other)


def clip_pixels(picture: Picture, side: int) -> Tensor:
    """The picture as CLIP sees it: float32 [3, side, side], normalized by channel."""
    image = picture.to_pil()
    scale = side / min(image.size)
    width, height = (max(side, round(edge * scale)) for edge in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    scaled = image.resize((width, height), PilImage.Resampling.BICUBIC)
    cropped = Picture.from_pil(scaled.crop((left, top, left + side, top + side)))
    pixels = cropped.pixels.permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def _unit(embedded: Tensor) -> Tensor:
    return F.normalize(embedded[0].float(), dim=0).cpu()
