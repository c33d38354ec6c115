"""NaN in any codec is one clear error, and never an answer that looks like one."""

from collections.abc import Callable

import pytest
import torch
from tests.tiny import checkers, tiny_suite, tone
from torch import nn

from omni_diffusion.codecs.suite import CodecSuite
from omni_diffusion.errors import ModelError

PARTS: dict[str, tuple[Callable[[CodecSuite], nn.Module], Callable[[CodecSuite], object]]] = {
    "image encoder": (
        lambda codecs: codecs.image.encoder.conv_in,
        lambda codecs: codecs.image.encode(checkers(12)),
    ),
    "image decoder": (
        lambda codecs: codecs.image.decoder.conv_out,
        lambda codecs: codecs.image.decode(torch.zeros(16, dtype=torch.long)),
    ),
    "speech tokenizer": (
        lambda codecs: codecs.speech.tokenizer.conv1,
        lambda codecs: codecs.speech.encode(tone()),
    ),
    "speech decoder": (
        lambda codecs: codecs.speech.flow,
        lambda codecs: codecs.speech.decode(torch.zeros(12, dtype=torch.long)),
    ),
}
STREAM = (PARTS["speech decoder"][0], lambda codecs: list(
    codecs.speech.decode_stream([torch.zeros(60, dtype=torch.long)])
))  # fmt: skip


@pytest.mark.parametrize("name", [*PARTS, "speech decoder, streaming"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_codec_with_broken_weights_says_so(name: str, value: float) -> None:
    codecs = tiny_suite()
    part, use = PARTS.get(name, STREAM)
    use(codecs)
    with torch.no_grad():
        for weight in part(codecs).parameters():
            weight.fill_(value)
    words = f"the {name.split(',')[0]} gives values that are not finite; check its weights"
    with pytest.raises(ModelError, match=words):
        use(codecs)
