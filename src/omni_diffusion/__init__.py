"""One masked discrete diffusion transformer that reads and makes text, images and speech.

The names a user needs; each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_diffusion.conversation import Blank, Image, Message, Speech, Text
    from omni_diffusion.diffusion.params import SamplingParams
    from omni_diffusion.engine.ask import Inputs, ask
    from omni_diffusion.engine.engine import Engine
    from omni_diffusion.engine.request import Request, Result
    from omni_diffusion.errors import OmniError
    from omni_diffusion.media import Picture, Waveform
    from omni_diffusion.models.omni import OmniModel
    from omni_diffusion.tasks.infill import box, cloze, inpainting

# fmt: off
__all__ = [
    "Blank", "Engine", "Image", "Inputs", "Message", "OmniError", "OmniModel", "Picture", "Request",
    "Result", "SamplingParams", "Speech", "Text", "Waveform", "ask", "box", "cloze", "inpainting",
]
HOMES = {
    "Blank": "conversation", "Engine": "engine.engine", "Image": "conversation",
    "Inputs": "engine.ask", "Message": "conversation", "OmniError": "errors",
    "OmniModel": "models.omni", "Picture": "media", "Request": "engine.request",
    "Result": "engine.request", "SamplingParams": "diffusion.params", "Speech": "conversation",
    "Text": "conversation", "Waveform": "media", "ask": "engine.ask", "box": "tasks.infill",
    "cloze": "tasks.infill", "inpainting": "tasks.infill",
}
# fmt: on


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
