"""LoRA on the backbone through peft: which layers get low-rank factors, and adapter folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import ConfigError
from omni_diffusion.io import optional

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
TASK_TYPES = (None, "CAUSAL_LM", "FEATURE_EXTRACTION")  # peft's classes without a head of their own
SPEECH_ADAPTER = "audio_projection"  # projects speech frames to hidden states
# the class that opens a saved adapter's base model, as peft records it in adapter_config.json
BASE_MODEL = {
    "base_model_class": "OmniDiffusionModel",
    "parent_library": "omni_diffusion.integrations.transformers.modeling",
}


def lora_config(
    rank: int = 16,
    *,
    target_modules: Sequence[str] = (*ATTENTION, *FEED_FORWARD),
    new_ids: Sequence[int] = (),
    tied: bool = False,
    adapter: bool = False,
    **options: Any,
) -> Any:
    """A `peft.LoraConfig` with factors of `rank` at every linear layer of the blocks.

    new_ids: token ids whose embedding and head rows are trained directly and stored with the
    adapter. For a Dream-7B with an extended vocabulary, give all ids from
    `vocabulary.specials.start` on. This is cheaper than both tables as `modules_to_save`. tied:
    whether the head is the embedding table (`DreamConfig.tie_embeddings`), whose rows then serve
    both. adapter: train and store the speech adapter too. options: other fields of LoraConfig; the
    default of lora_alpha is twice the rank; task_type may be None, "CAUSAL_LM" or
    "FEATURE_EXTRACTION". Raises MissingDependencyError without peft, ConfigError for a rank below 1
    or another task_type.
    """
    if rank < 1:
        raise ConfigError(f"rank is {rank}", field="rank", value=rank, fix="give 1 or more")
    peft = optional.require("peft", "lora")
    task = options.get("task_type")
    if task not in TASK_TYPES:
        raise ConfigError(
            f"task_type is {task!r}, which needs another head than the model has",
            field="task_type",
            value=task,
            fix=f"give one of {', '.join(map(str, TASK_TYPES))}",
        )
    tables = ("embed_tokens",) if tied else ("embed_tokens", "lm_head")
    rows = {name: list(new_ids) for name in tables} if new_ids else None
    defaults = {"lora_alpha": 2 * rank, "modules_to_save": [SPEECH_ADAPTER] if adapter else None}
    return peft.LoraConfig(
        r=rank,
        target_modules=list(target_modules),
        trainable_token_indices=rows,
        **(defaults | options),
    )


class _Base(nn.Module):
    """Holds the backbone under the name that `OmniDiffusionModel` gives it, and adapters store."""

    def __init__(self, backbone: Dream) -> None:
        super().__init__()
        self.backbone = backbone


def add_lora(backbone: Dream, rank: int) -> Any:
    """Add factors of `rank` to the backbone in place; returns the `peft.PeftModel` around it.

    `merge_and_unload()` of the result merges the factors into the backbone's weights.
    """
    config = lora_config(rank)
    return optional.require("peft", "lora").get_peft_model(_Base(backbone), config)


def save_adapter(adapted: Any, folder: Path, base: Path) -> None:
    """Write an adapter folder that `PeftModel.from_pretrained` opens on an `OmniDiffusionModel`.

    base: the model folder that the factors belong to.
    """
    adapted.save_pretrained(folder)
    config = type(adapted.peft_config["default"]).from_pretrained(folder)
    config.auto_mapping = BASE_MODEL
    config.base_model_name_or_path = str(base.resolve())
    config.save_pretrained(folder)
