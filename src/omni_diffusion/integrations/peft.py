"""LoRA on an `OmniDiffusionModel` through peft.

    model = peft.get_peft_model(OmniDiffusionModel.from_pretrained(folder), lora_config())

`training.denoising.DenoisingObjective` then trains `model.get_base_model().backbone`. After
training, `model.save_pretrained` writes the adapter, and `model.merge_and_unload()` returns an
`OmniDiffusionModel`.
"""

from __future__ import annotations

from omni_diffusion.models.lora import lora_config

__all__ = ["lora_config"]
