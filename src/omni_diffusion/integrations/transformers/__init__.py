"""The model as the Hugging Face libraries know one: Auto classes, processor, LoRA, pipeline.

Importing this registers AutoConfig, AutoModel and AutoProcessor for our folders; the modules `lora`
and `pipeline` are imported by themselves. Raises ModelError without transformers.
"""

from omni_diffusion.io import optional

optional.need("transformers", "hub")

from transformers import AutoConfig, AutoModel, AutoProcessor  # noqa: E402

from omni_diffusion.integrations.transformers.modeling import (  # noqa: E402
    OmniDiffusionConfig,
    OmniDiffusionModel,
)
from omni_diffusion.integrations.transformers.processing import OmniDiffusionProcessor  # noqa: E402

__all__ = ["OmniDiffusionConfig", "OmniDiffusionModel", "OmniDiffusionProcessor"]

AutoConfig.register(OmniDiffusionConfig.model_type, OmniDiffusionConfig, exist_ok=True)
AutoModel.register(OmniDiffusionConfig, OmniDiffusionModel, exist_ok=True)
AutoProcessor.register(OmniDiffusionConfig, OmniDiffusionProcessor, exist_ok=True)
