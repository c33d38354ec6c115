"""The model as the Hugging Face libraries know one: Auto classes, processor, LoRA, pipeline.

Importing this registers AutoConfig, AutoModel and AutoProcessor for our folders; the modules `lora`
and `pipeline` are imported by themselves. Raises ModelError without transformers.
"""

from omni_diffusion import extras

extras.need("transformers", "hub")

from transformers import AutoConfig, AutoModel, AutoProcessor  # noqa: E402

from omni_diffusion.hub.modeling import OmniDiffusionConfig, OmniDiffusionModel  # noqa: E402
from omni_diffusion.hub.processing import OmniDiffusionProcessor  # noqa: E402

__all__ = ["OmniDiffusionConfig", "OmniDiffusionModel", "OmniDiffusionProcessor"]

AutoConfig.register(OmniDiffusionConfig.model_type, OmniDiffusionConfig, exist_ok=True)
AutoModel.register(OmniDiffusionConfig, OmniDiffusionModel, exist_ok=True)
AutoProcessor.register(OmniDiffusionConfig, OmniDiffusionProcessor, exist_ok=True)
