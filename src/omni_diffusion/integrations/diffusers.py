"""The model as a diffusers pipeline for text to image and inpainting.

A call uses the same functions as the engine to lay out, denoise and read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch

from omni_diffusion.io import optional

optional.require("diffusers", "diffusers")

from diffusers import DiffusionPipeline, ImagePipelineOutput  # noqa: E402

from omni_diffusion.canvas import Canvas  # noqa: E402
from omni_diffusion.conversation import (  # noqa: E402
    Conversation,
    Image,
    Message,
    Text,
)
from omni_diffusion.engine.runner import GuidedCanvas  # noqa: E402
from omni_diffusion.errors import ModelError, TaskError  # noqa: E402
from omni_diffusion.integrations.transformers.denoising import denoise  # noqa: E402
from omni_diffusion.integrations.transformers.processing import ImageLike, picture  # noqa: E402
from omni_diffusion.io.config import nearest, shown  # noqa: E402
from omni_diffusion.media import Picture  # noqa: E402
from omni_diffusion.models.dtypes import DtypeChoice  # noqa: E402
from omni_diffusion.models.omni import OmniModel  # noqa: E402
from omni_diffusion.tasks import catalog  # noqa: E402
from omni_diffusion.tasks.infill import DrawnMask, drawn_hole, inpainting  # noqa: E402
from omni_diffusion.tasks.read import Answer, read  # noqa: E402
from omni_diffusion.tasks.render import Prepared, render  # noqa: E402

StepCallback: TypeAlias = "Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]"
OUTPUT_TYPES = ("pil", "np", "pt")
PIPELINE_OPTIONS = (  # of a call
    *("prompt", "image", "mask_image", "num_inference_steps", "guidance_scale"),
    *("num_images_per_prompt", "generator", "output_type", "return_dict", "callback_on_step_end"),
    *("height", "width"),
)
OTHER_OPTIONS = {  # of other pipelines, with what to do instead
    "negative_prompt": "guidance is against an empty prompt; say in the prompt what is wanted",
    "strength": "the hole of an inpainting is always painted whole; omit it",
    "latents": "images are made of tokens; give generator for a repeatable image",
    "prompt_embeds": "give prompt",
    "negative_prompt_embeds": "give prompt",
    "timesteps": "give num_inference_steps",
    "sigmas": "give num_inference_steps",
    "eta": "omit it",
    "clip_skip": "omit it",
    "cross_attention_kwargs": "omit it",
    "callback": "give callback_on_step_end",
    "callback_on_step_end_tensor_inputs": "the callback always gets the ids; omit it",
}


class OmniDiffusionPipeline(DiffusionPipeline):
    """Generates images with an `OmniModel`. It has one folder, not one for each component."""

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
        torch_dtype: DtypeChoice = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> Self:
        """Open a model; options and errors are those of `OmniModel.from_pretrained`.

        torch_dtype: of the backbone; None = what config.json says. `dtype` is its newer name.
        """
        torch_dtype = options.pop("dtype", torch_dtype)
        model = OmniModel.from_pretrained(
            os.fspath(source), dtype=torch_dtype, device=device, **options
        )
        return cls(model)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Write a folder that `from_pretrained`, `OmniModel` and AutoModel open."""
        self.model.save(os.fspath(save_directory))

    def to(self, *_: Any, **__: Any) -> Self:
        """Not supported: raises ModelError, because a model gets its device when it is opened."""
        raise ModelError(
            "an open model cannot change its device",
            field="device",
            fix="give from_pretrained a device",
        )

    @property
    def device(self) -> torch.device:
        """The device of the backbone."""
        return self.model.device

    @property
    def interrupt(self) -> bool:
        """Whether the running call shall stop; a callback sets `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """The number of steps of the last call."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: ImageLike | None = None,
        mask_image: DrawnMask | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Text to image, or inpainting if `image` and `mask_image` (white = new) are given.

        An inpainted image has the size of the given one, and its pixels outside of the mask's white
        part. mask_image: an image or path, or an array as `tasks.infill.drawn_hole` takes it.

        guidance_scale: 1 is off, as in diffusers; our `SamplingParams.guidance` is one less. None
        for it and for num_inference_steps takes the default of model and task. generator: one, or
        one per image. output_type: "pil", "np" float [B, H, W, 3] or "pt" float [B, 3, H, W], 0 to
        1. callback_on_step_end(pipe, step, step, {"ids": [B] of int64 [L]}) is called after every
        step. If it sets `pipe._interrupt`, the call returns the images so far; masked cells then
        take the codes of their neighbours. height, width: the model's one size, or None. Raises
        TaskError and ModelError for wrong arguments, and for options of other pipelines.
        """
        _check_output_type(output_type)
        _check_options(options)
        self._check_size(height=height, width=width)
        conversations = [_conversation(text, image, mask_image) for text in _prompts(prompt)]
        conversations = [one for one in conversations for _ in range(num_images_per_prompt)]
        if not conversations:
            raise TaskError(
                "there is no image to generate",
                field="prompt",
                fix="give a prompt, and num_images_per_prompt of 1 or more",
            )
        task = catalog.task("t2i" if image is None else "inpaint")
        overrides = _overrides(num_inference_steps, guidance_scale)
        seeds = _seeds(generator, len(conversations))
        prepared = [
            render(task, conversation, self.model, {**overrides, "seed": seed})
            for conversation, seed in zip(conversations, seeds, strict=True)
        ]
        canvases = self._denoise(prepared, callback_on_step_end)
        answers = [
            read(canvas, one, self.model) for canvas, one in zip(canvases, prepared, strict=True)
        ]
        images = _convert(output_type, _pictures(answers))
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check_size(self, **sides: int | None) -> None:
        size = self.model.codecs.image.config.generation_size
        for name, side in sides.items():
            if side is not None and side != size:
                raise ModelError(
                    f"{name} is {side}, and the model makes images of {size} x {size}",
                    field=name,
                    value=side,
                    fix=f"give {size} or omit it, and resize the image",
                )

    def _denoise(self, prepared: Sequence[Prepared], callback: StepCallback | None) -> list[Canvas]:
        """The filled canvases; on an interrupt, with masked positions."""
        vocabulary = self.model.vocabulary
        rows = [GuidedCanvas(p.canvas, p.uncond, p.params, vocabulary.mask) for p in prepared]
        self._interrupt = False
        self._num_timesteps = max(row.state.steps for row in rows)
        with self.progress_bar(total=self._num_timesteps) as bar:

            def after_step(step: int) -> bool:
                bar.update()
                if callback is not None:
                    callback(self, step, step, {"ids": [row.canvas.ids for row in rows]})
                return not self._interrupt

            denoise(self.model.backbone, rows, after_step)
        return [row.canvas for row in rows]


def _check_output_type(output_type: str) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ModelError(
            f"output_type is {output_type!r}",
            field="output_type",
            value=output_type,
            fix=f"give one of {', '.join(OUTPUT_TYPES)}",
        )


def _overrides(steps: int | None, guidance_scale: float | None) -> dict[str, Any]:
    """The sampling parameters that a call changes."""
    guidance = None if guidance_scale is None else max(guidance_scale - 1.0, 0.0)
    given = {"steps": steps, "guidance": guidance}
    return {name: value for name, value in given.items() if value is not None}


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise ModelError for an option of other pipelines, unless it is unset."""
    for name, value in options.items():
        if name not in OTHER_OPTIONS:
            raise ModelError(
                f"the pipeline has no option {name!r}",
                field=name,
                value=value,
                fix=nearest(name, PIPELINE_OPTIONS),
            )
        if value is not None:
            raise ModelError(
                f"{name} is given, and the model has no use for it",
                field=name,
                value=value,
                fix=OTHER_OPTIONS[name],
            )


def _prompts(prompt: str | Sequence[str] | None) -> Sequence[str | None]:
    return [prompt] if prompt is None or isinstance(prompt, str) else prompt


def _conversation(
    prompt: str | None, image: ImageLike | None, mask: DrawnMask | None
) -> Conversation:
    if (image is None) != (mask is None):
        raise TaskError(
            "inpainting needs both image and mask_image",
            field="mask_image" if mask is None else "image",
            fix="give both or neither",
        )
    if image is not None and mask is not None:
        return inpainting(picture(image), drawn_hole(mask), prompt)
    if prompt is None:
        raise TaskError("text to image needs a prompt", field="prompt", fix="give some words")
    return [Message("user", (Text(prompt),))]


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """A seed per image, drawn from its generator; None draws from torch's default generator."""
    if isinstance(generator, torch.Generator) or generator is None:
        generators = [generator] * count
    else:
        generators = list(generator) if isinstance(generator, Sequence) else [generator]
    for each in generators:
        if each is not None and not isinstance(each, torch.Generator):
            raise ModelError(
                f"generator is {shown(each)}",
                field="generator",
                value=each,
                fix="give torch.Generator().manual_seed(...)",
            )
    if len(generators) != count:
        raise ModelError(
            f"there are {len(generators)} generators for {count} images",
            field="generator",
            value=len(generators),
            fix="give one, or one per image",
        )
    return [_seed(one) for one in generators]


def _seed(generator: torch.Generator | None) -> int:
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


def _pictures(answers: Sequence[Answer]) -> list[Picture]:
    pictures = [part.picture for a in answers for part in a.parts if isinstance(part, Image)]
    if len(pictures) < len(answers):
        raise ModelError(
            "an image has no code yet",
            field="callback_on_step_end",
            fix="interrupt after more steps, or give another seed",
        )
    return pictures


def _convert(output_type: str, pictures: Sequence[Picture]) -> Any:
    if output_type == "pil":
        return [picture.to_pil() for picture in pictures]
    stacked = torch.stack([picture.pixels.float() / 255 for picture in pictures])
    return np.asarray(stacked.cpu()) if output_type == "np" else stacked.permute(0, 3, 1, 2)
