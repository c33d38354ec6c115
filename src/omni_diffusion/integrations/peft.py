"""LoRA on the backbone through peft: which layers get factors, and what of the rest is trained.

    model = peft.get_peft_model(OmniDiffusionModel.from_pretrained(folder), lora_config())

The objective of `training.denoising` then takes `model.get_base_model().backbone`. After training,
`model.save_pretrained` writes the adapter alone, and `model.merge_and_unload()` gives an
`OmniDiffusionModel` again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omni_diffusion.errors import ConfigError
from omni_diffusion.io import optional

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
ADAPTER = "audio_projection"  # turns heard frames to hidden states; new in a widened Dream-7B


def lora_config(
    rank: int = 16,
    *,
    target_modules: Sequence[str] = (*ATTENTION, *FEED_FORWARD),
    new_ids: Sequence[int] = (),
    adapter: bool = False,
    **options: Any,
) -> Any:
    """A `peft.LoraConfig`: factors of `rank` at every linear layer of the blocks.

    new_ids: ids whose rows of embedding and head are trained whole, and stored with the adapter;
    for a Dream-7B that was widened, all from `vocabulary.specials.start` on. Cheaper than both
    tables as `modules_to_save`. adapter: train the speech adapter whole, likewise. options: other
    fields of LoraConfig; lora_alpha is twice the rank where it is not among them. Raises ModelError
    without peft, ConfigError for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"rank is {rank}; give 1 or more")
    peft = optional.need("peft", "lora")
    rows = {"embed_tokens": list(new_ids), "lm_head": list(new_ids)} if new_ids else None
    usual = {"lora_alpha": 2 * rank, "modules_to_save": [ADAPTER] if adapter else None}
    return peft.LoraConfig(
        r=rank,
        target_modules=list(target_modules),
        trainable_token_indices=rows,
        **(usual | options),
    )
