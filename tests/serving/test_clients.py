"""Clients that people use beside OpenAI's own, where they are installed, on the small model."""

import base64
import io
import warnings
from typing import Any

import pytest
import soundfile
from tests.serving.conftest import INPUTS, KEY, Running

from omni_diffusion.media import Picture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs, not ours
QUESTION = [{"role": "user", "content": "what is a cake?"}]
ANSWER = "a cake is a food"


def library(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def seen() -> list[dict[str, Any]]:
    encoded = base64.b64encode((INPUTS / "penguin-cow.png").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    text = {"type": "text", "text": "what is to the right of the penguin?"}
    return [{"role": "user", "content": [text, image]}]


class TestLiteLLM:
    """`model="openai/NAME"` with `api_base`."""

    @pytest.fixture
    def litellm(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # fetches no prices
        return library("litellm")

    @pytest.fixture
    def to(self, small: Running) -> dict[str, Any]:
        return {"api_base": f"{small.url}/v1", "api_key": KEY, "num_retries": 0}

    def test_chat(self, litellm: Any, to: dict[str, Any]) -> None:
        whole = litellm.completion(model="openai/mini", messages=QUESTION, **to)
        assert whole.choices[0].message.content == ANSWER
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage.total_tokens > 10
        pieces = litellm.completion(model="openai/mini", messages=QUESTION, stream=True, **to)
        assert "".join(each.choices[0].delta.content or "" for each in pieces) == ANSWER
        short = litellm.completion(
            model="openai/mini", messages=QUESTION, stop=[" is"], max_tokens=9, seed=1, **to
        )
        assert short.choices[0].message.content == "a cake"
        picture = litellm.completion(model="openai/mini", messages=seen(), **to)
        assert picture.choices[0].message.content == "a cow"

    def test_pictures(self, litellm: Any, to: dict[str, Any]) -> None:
        made = litellm.image_generation(
            model="openai/mini", prompt="a red ball", size="96x96",
            extra_body={"num_inference_steps": 2}, **to,
        )  # fmt: skip
        picture = Picture.read(base64.b64decode(made.data[0].b64_json))
        assert (picture.width, picture.height) == (96, 96)

    def test_sound(self, litellm: Any, to: dict[str, Any]) -> None:
        spoken = litellm.speech(
            model="openai/mini", voice="alloy", input="a dog", response_format="wav", **to
        )
        samples, rate = soundfile.read(io.BytesIO(spoken.content))
        assert 0.2 < len(samples) / rate < 5
        file = ("dog.ogg", (INPUTS / "dog.ogg").read_bytes())
        heard = litellm.transcription(model="openai/mini", file=file, **to)
        assert heard.text.endswith("on a white background")

    def test_errors(self, litellm: Any, to: dict[str, Any]) -> None:
        with pytest.raises(litellm.NotFoundError):
            litellm.completion(model="openai/other", messages=QUESTION, **to)
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(
                model="openai/mini", messages=QUESTION, **{**to, "api_key": "another"}
            )
        with pytest.raises(litellm.BadRequestError):
            litellm.completion(model="openai/mini", messages=QUESTION, temperature=9, **to)


class TestLangChain:
    """`langchain_openai.ChatOpenAI` with `base_url`."""

    @pytest.fixture
    def chat(self, small: Running) -> Any:
        made = library("langchain_openai").ChatOpenAI
        return made(model="mini", base_url=f"{small.url}/v1", api_key=KEY, max_retries=0)

    def test_chat(self, chat: Any) -> None:
        answer = chat.invoke("what is a cake?")
        assert answer.content == ANSWER
        assert answer.response_metadata["finish_reason"] == "stop"
        assert answer.usage_metadata["output_tokens"] >= 5
        assert "".join(piece.content for piece in chat.stream("what is a cake?")) == ANSWER
        assert chat.invoke("what is a cake?", stop=[" is"]).content == "a cake"
        assert chat.bind(max_tokens=2).invoke("what is a cake?").content == "a cake"
        assert chat.invoke(seen()).content == "a cow"

    def test_many_at_once(self, chat: Any) -> None:
        answers = chat.batch(["what is a cake?"] * 6)
        assert [answer.content for answer in answers] == [ANSWER] * 6
