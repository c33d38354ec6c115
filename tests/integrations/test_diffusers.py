"""The diffusers pipeline makes the same images as the engine."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DiffusionPipeline
from tests.tasks.tiny_scenes import CONVERSATIONS
from tests.tiny import checkers

from omni_diffusion.conversation import Image, Message, Text
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import (
    MediaError,
    MissingDependencyError,
    ModelError,
    SamplingError,
    TaskError,
)
from omni_diffusion.integrations.diffusers import OmniDiffusionPipeline
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.tasks import catalog
from omni_diffusion.tasks.infill import box


@pytest.fixture(scope="module")
def pipe(omni: OmniModel) -> OmniDiffusionPipeline:
    pipe = OmniDiffusionPipeline(omni)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted(omni: OmniModel, task: str, **changes: Any) -> torch.Tensor:
    """The pixels of the engine's image."""
    params = replace(catalog.task(task).params, **changes)
    (result,) = Engine(omni).run([Request(task, CONVERSATIONS[task], params)])
    (part,) = result.parts
    assert isinstance(part, Image)
    return part.picture.pixels


def pixels(image: PIL.Image.Image) -> torch.Tensor:
    return Picture.from_pil(image).pixels


def test_text_to_image_as_the_engine_paints_it(
    omni: OmniModel, pipe: OmniDiffusionPipeline
) -> None:
    assert isinstance(pipe, DiffusionPipeline)
    made = pipe("a red apple", num_inference_steps=5, guidance_scale=2.5)
    (image,) = made.images
    assert torch.equal(pixels(image), painted(omni, "t2i", steps=5, guidance=1.5))
    (images,) = pipe("a red apple", num_inference_steps=5, guidance_scale=1.0, return_dict=False)
    assert torch.equal(pixels(images[0]), painted(omni, "t2i", steps=5))


def test_inpainting_keeps_what_the_mask_leaves(
    omni: OmniModel, pipe: OmniDiffusionPipeline
) -> None:
    image = checkers(8)
    hole = box(image, 0, 0, 3, 3)
    mask = PIL.Image.fromarray((hole * 255).to(torch.uint8).numpy())
    for given in (mask, hole):
        made = pipe("a dog", image=image.to_pil(), mask_image=given, num_inference_steps=3)
        found = pixels(made.images[0])
        assert torch.equal(found, painted(omni, "inpaint", steps=3))
        assert torch.equal(found[~hole], image.pixels[~hole])
    assert pipe(image=image, mask_image=mask, num_inference_steps=1).images  # no words needed


def test_the_callback_is_called_after_every_step(pipe: OmniDiffusionPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def watch(pipe: Any, step: int, timestep: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        blanks = sum(int((ids == pipe.model.vocabulary.mask).sum()) for ids in kwargs["ids"])
        seen.append((step, blanks))
        return {}

    pipe(["a dog", "a cat"], num_inference_steps=4, callback_on_step_end=watch)
    assert seen == [(0, 24), (1, 16), (2, 8), (3, 0)]  # of 2 x 16 codes
    assert pipe.num_timesteps == 4


def test_the_callback_can_stop_the_call(pipe: OmniDiffusionPipeline) -> None:
    steps: list[int] = []

    def stop(pipe: Any, step: int, timestep: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    made = pipe("a dog", num_inference_steps=8, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert pipe.interrupt
    assert made.images[0].size == (8, 8)  # what is sure so far, spread
    pipe("a dog", num_inference_steps=2)
    assert not pipe.interrupt


@pytest.mark.parametrize("size", [8, 20])
@pytest.mark.parametrize("kind", ["float", "bool", "uint8", "array", "PIL", "RGBA"])
def test_masks_of_every_type_keep_the_same_pixels(
    pipe: OmniDiffusionPipeline, kind: str, size: int
) -> None:
    given = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8)
    hole = torch.zeros(size, size, dtype=torch.bool)
    hole[1:5, 2:6] = True
    soft = torch.where(hole, 1.0, 0.01)
    grey = (soft * 255).to(torch.uint8)
    layer = torch.cat([torch.full((size, size, 3), 255), hole[..., None] * 255], -1)
    mask = {
        "float": soft,
        "bool": hole[None],
        "uint8": grey,
        "array": soft.double().numpy()[..., None],
        "PIL": PIL.Image.fromarray(grey.numpy()),
        "RGBA": PIL.Image.fromarray(layer.to(torch.uint8).numpy(), "RGBA"),
    }[kind]
    made = pipe(image=Picture(given), mask_image=mask, num_inference_steps=2, output_type="np")
    pixels = torch.from_numpy((made.images[0] * 255).round()).to(torch.uint8)
    assert pixels.shape == given.shape
    assert torch.equal(pixels[~hole], given[~hole])
    assert not torch.equal(pixels[hole], given[hole])


def test_generators_decide_what_is_drawn(omni: OmniModel) -> None:
    hot = replace(catalog.task("t2i").params, temperature=1.0)
    generation = replace(omni.config.generation, sampling={"t2i": hot})
    config = replace(omni.config, generation=generation)
    pipe = OmniDiffusionPipeline(OmniModel(config, omni.codecs, omni.backbone))
    pipe.set_progress_bar_config(disable=True)

    def draw(*seeds: int, **options: Any) -> np.ndarray[Any, Any]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = generators[0] if len(seeds) == 1 else generators
        made = pipe("a dog", generator=given, output_type="np", num_inference_steps=4, **options)
        return np.asarray(made.images)

    two = draw(0, num_images_per_prompt=2)
    assert two.shape == (2, 8, 8, 3)
    assert not np.array_equal(two[0], two[1])
    assert np.array_equal(two, draw(0, num_images_per_prompt=2))
    apart = draw(1, 0, num_images_per_prompt=2)
    assert np.array_equal(apart[1], two[0])


def test_kinds_of_output_hold_the_same_numbers(pipe: OmniDiffusionPipeline) -> None:
    def make(kind: str) -> Any:
        return pipe("a dog", num_inference_steps=2, output_type=kind).images

    pil, array, tensor = make("pil")[0], make("np"), make("pt")
    assert array.dtype == np.float32
    assert tensor.shape == (1, 3, 8, 8)
    assert np.array_equal(array[0], tensor[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(pil), (array[0] * 255).round().astype(np.uint8))


def test_saved_and_opened(pipe: OmniDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = OmniDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert again.model.config == pipe.model.config
    assert again.model.backbone.lm_head.weight.dtype == torch.bfloat16
    assert again.device == torch.device("cpu")
    assert again.components == {"model": again.model}


def test_mistakes_are_one_line(pipe: OmniDiffusionPipeline) -> None:
    image = checkers(8)
    for error, words, options in (
        (TaskError, "prompt", {}),
        (TaskError, "prompt", {"prompt": []}),
        (TaskError, "mask_image", {"prompt": "a", "image": image}),
        (TaskError, r"give bool \(8, 8\)", {"image": image, "mask_image": checkers(4)}),
        (MediaError, "int is not an image", {"image": 3, "mask_image": image}),
        (ModelError, "'latent'", {"prompt": "a", "output_type": "latent"}),
        (ModelError, "0 generators for 1 images", {"prompt": "a", "generator": []}),
        (SamplingError, "steps is 0", {"prompt": "a", "num_inference_steps": 0}),
    ):
        with pytest.raises(error, match=words):
            pipe(**options)
    with pytest.raises(ModelError, match="from_pretrained"):
        pipe.to("cuda")


def test_text_in_a_message_is_the_prompt() -> None:
    assert CONVERSATIONS["t2i"] == (Message("user", (Text("a red apple"),)),)


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [("transformers", "transformers", "hub"), ("diffusers", "diffusers", "diffusers")],
)
def test_a_missing_library_is_named(
    library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"omni_diffusion.integrations.{module}"
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError) as caught:
        importlib.import_module(name)
    assert caught.value.value == library
    assert f"omni-diffusion[{extra}]" in str(caught.value)


def test_options_of_other_pipelines_are_one_line(pipe: OmniDiffusionPipeline) -> None:
    for words, options in (
        ("negative_prompt is given, .*; guidance is against an empty", {"negative_prompt": "a"}),
        (r"height is 16, .* 8 x 8; give 8", {"height": 16}),
        (r"width is 512, .* 8 x 8; give 8", {"width": 512}),
        ("strength is given", {"strength": 0.5}),
        ("no option 'guidence_scale'; did you mean guidance_scale", {"guidence_scale": 2.0}),
        ("generator is 3; give torch.Generator", {"generator": 3}),
    ):
        with pytest.raises(ModelError, match=words):
            pipe("a dog", num_inference_steps=2, **options)
    plain = pipe("a dog", num_inference_steps=2, height=8, width=8, negative_prompt=None)
    assert plain.images[0].size == (8, 8)
