"""The model for the transformers library: config, model and processor.

Importing this package registers AutoConfig, AutoModel, AutoModelForMaskedLM and AutoProcessor for
our folders; and AutoModelForCausalLM, which peft opens for its task type. Raises
MissingDependencyError without transformers.
"""

from omni_diffusion.io import optional

optional.require("transformers", "hub")

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoProcessor,
)

from omni_diffusion.integrations.transformers.modeling import (  # noqa: E402
    OmniDiffusionConfig,
    OmniDiffusionModel,
)
from omni_diffusion.integrations.transformers.processing import OmniDiffusionProcessor  # noqa: E402

__all__ = ["OmniDiffusionConfig", "OmniDiffusionModel", "OmniDiffusionProcessor"]

AutoConfig.register(OmniDiffusionConfig.model_type, OmniDiffusionConfig, exist_ok=True)
for auto_class in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
    auto_class.register(OmniDiffusionConfig, OmniDiffusionModel, exist_ok=True)
AutoProcessor.register(OmniDiffusionConfig, OmniDiffusionProcessor, exist_ok=True)
