"""The model as a diffusers pipeline: text to image and inpainting, with that library's words.

A call lays out, denoises and reads by the same functions as the engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from omni_diffusion.io import optional

optional.need("diffusers", "diffusers")

from diffusers import DiffusionPipeline, ImagePipelineOutput  # noqa: E402

from omni_diffusion.conversation import Image, Message, Text  # noqa: E402
from omni_diffusion.engine.runner import Row  # noqa: E402
from omni_diffusion.errors import ModelError, TaskError  # noqa: E402
from omni_diffusion.integrations.transformers.denoising import denoise  # noqa: E402
from omni_diffusion.integrations.transformers.processing import picture  # noqa: E402
from omni_diffusion.media import Picture  # noqa: E402
from omni_diffusion.models.omni import OmniModel  # noqa: E402
from omni_diffusion.tasks import catalog  # noqa: E402
from omni_diffusion.tasks.encode import Spoken  # noqa: E402
from omni_diffusion.tasks.infill import inpainting, white  # noqa: E402
from omni_diffusion.tasks.read import read  # noqa: E402
from omni_diffusion.tasks.render import render  # noqa: E402

Drawn: TypeAlias = "Picture | PIL.Image.Image | str"
OnStepEnd: TypeAlias = "Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]"
KINDS = ("pil", "np", "pt")


class OmniDiffusionPipeline(DiffusionPipeline):
    """Paints with an `OmniModel`; of its folder, not of one file for each component."""

    def __init__(self, model: OmniModel) -> None:
        super().__init__()
        self.register_to_config(model=("omni_diffusion", "OmniModel"))
        self.model = model
        self._interrupt = False
        self._num_timesteps = 0

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> Self:
        """Open a model; options are those of `OmniModel.from_pretrained`, and it raises as that."""
        place = os.fspath(source)
        return cls(OmniModel.from_pretrained(place, dtype=torch_dtype, device=device, **options))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Write our model folder, which `from_pretrained`, `OmniModel` and AutoModel open."""
        self.model.save(os.fspath(save_directory))

    def to(self, *_: Any, **__: Any) -> Self:
        """Refused: raises ModelError, since codecs and backbone are placed when opened."""
        raise ModelError("the model is placed when it is opened; give from_pretrained a device")

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return self.model.device

    @property
    def interrupt(self) -> bool:
        """Whether the running call was asked to stop; a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """The steps of the last call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Drawn | None = None,
        mask_image: Drawn | Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Text to image, or inpainting where `image` and `mask_image` (white = new) are given.

        guidance_scale: 1 is off, as diffusers counts; our `SamplingParams.guidance` is one less.
        None for it and for the steps takes what model and task have. generator: one, or one for
        each image. output_type: "pil", "np" float [B, H, W, 3] or "pt" float [B, 3, H, W], 0 to 1.
        callback_on_step_end(pipe, step, step, {"ids": [B] of int64 [L]}) is called after every
        step; where it sets `pipe._interrupt`, what is painted so far is returned, and open cells
        take their neighbours' codes. Raises TaskError and ModelError for what does not fit.
        """
        if output_type not in KINDS:
            raise ModelError(f"output_type is {output_type!r}; give one of {', '.join(KINDS)}")
        asked = [_conversation(each, image, mask_image) for each in _prompts(prompt)]
        asked = [each for each in asked for _ in range(num_images_per_prompt)]
        if not asked:
            raise TaskError("nothing is to be painted; give a prompt, and 1 or more images of it")
        task = catalog.task("t2i" if image is None else "inpaint")
        params = self.model.sampling.get(task.name, task.params)
        if num_inference_steps is not None:
            params = replace(params, steps=num_inference_steps)
        if guidance_scale is not None:
            params = replace(params, guidance=max(guidance_scale - 1.0, 0.0))
        prepared = [
            render(task, each, self.model, replace(params, seed=seed))
            for each, seed in zip(asked, _seeds(generator, len(asked)), strict=True)
        ]
        vocabulary = self.model.vocabulary
        rows = [Row(each.canvas, each.null, each.params, vocabulary.mask) for each in prepared]
        self._interrupt = False
        self._num_timesteps = max(row.state.steps for row in rows)
        with self.progress_bar(total=self._num_timesteps) as bar:

            def after_step(step: int) -> bool:
                bar.update()
                if callback_on_step_end is not None:
                    ids = {"ids": [row.canvas.ids for row in rows]}
                    callback_on_step_end(self, step, step, ids)
                return not self._interrupt

            denoise(self.model.backbone, rows, vocabulary.pad, after_step)
        answers = [
            read(row.canvas, each, self.model) for row, each in zip(rows, prepared, strict=True)
        ]
        painted = [part.picture for a in answers for part in a.parts if isinstance(part, Image)]
        if len(painted) < len(answers):
            raise ModelError("an image has no code yet; let more steps pass, or give another seed")
        images = _as(output_type, painted)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _prompts(prompt: str | Sequence[str] | None) -> Sequence[str | None]:
    return [prompt] if prompt is None or isinstance(prompt, str) else prompt


def _conversation(
    prompt: str | None, image: Drawn | None, mask: Drawn | Tensor | None
) -> Sequence[Spoken]:
    if (image is None) != (mask is None):
        raise TaskError("inpainting needs both image and mask_image; give both or neither")
    if image is not None and mask is not None:
        seen = picture(image)
        return inpainting(seen, _hole(mask), prompt)
    if prompt is None:
        raise TaskError("text to image needs a prompt; give some words")
    return [Message("user", (Text(prompt),))]


def _hole(mask: Drawn | Tensor) -> Tensor:
    """A mask as bool [H, W]."""
    if isinstance(mask, Tensor):
        return mask.bool()
    return white(picture(mask))


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """A seed for each image, drawn from its generator; None draws from torch's own."""
    if isinstance(generator, torch.Generator) or generator is None:
        generators = [generator] * count
    else:
        generators = list(generator)
    if len(generators) != count:
        raise ModelError(f"{len(generators)} generators for {count} images; give one, or one each")
    return [_seed(each) for each in generators]


def _seed(generator: torch.Generator | None) -> int:
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


def _as(kind: str, painted: Sequence[Picture]) -> Any:
    if kind == "pil":
        return [each.to_pil() for each in painted]
    stacked = torch.stack([each.pixels.float() / 255 for each in painted])
    return np.asarray(stacked.cpu()) if kind == "np" else stacked.permute(0, 3, 1, 2)
