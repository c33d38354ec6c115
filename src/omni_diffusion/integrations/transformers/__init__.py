"""The model for the transformers library: config, model and processor.

Importing this package registers AutoConfig, AutoModel and AutoProcessor for our folders. Raises
MissingDependencyError without transformers.
"""

from omni_diffusion.io import optional

optional.require("transformers", "hub")

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
