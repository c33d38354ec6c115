import pytest
import torch

from omni_diffusion.conversation import Conversation, Image, Message, Speech, Text
from omni_diffusion.errors import TaskError
from omni_diffusion.media import Picture, Waveform


def test_parts_keep_their_order() -> None:
    picture = Picture(torch.zeros(2, 2, 3, dtype=torch.uint8))
    sound = Waveform(torch.zeros(1, 8), 16_000)
    talk: Conversation = (
        Message("system", (Text("Be brief."),)),
        Message("user", (Speech(sound), Image(picture))),
        Message("assistant", ()),
    )
    assert [type(part) for part in talk[1].parts] == [Speech, Image]
    assert talk[0] == Message("system", (Text("Be brief."),))


def test_wrong_role_and_wrong_part() -> None:
    with pytest.raises(TaskError, match="'robot' is unknown; give one of system, user, assistant"):
        Message("robot", ())  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="'hello' cannot be a part"):
        Message("user", ("hello",))  # type: ignore[arg-type]
