"""One server on a free port, with the small model, and OpenAI's own client."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from omni_diffusion.cli.serve import _listen
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.app import create_app, open_service
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.run import make_server
from omni_diffusion.serving.service import Service

INPUTS = Path(__file__).resolve().parents[2] / "src" / "omni_diffusion" / "demo" / "inputs"
KEY = "a-key-of-tests"


@dataclass
class Running:
    """A server in this process."""

    service: Service
    url: str

    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
        )


@pytest.fixture(scope="session")
def model() -> OmniModel:
    return OmniModel.open()


@pytest.fixture(scope="session")
def server(model: OmniModel) -> Iterator[Running]:
    limits = Limits(body=2**20, pixels=300_000, audio_seconds=20, stall=2, drain=5)
    examples = {"chat": [Inputs("what is a cake?")]}
    service = open_service(model, name="mini", limits=limits, max_batch=4, examples=examples)
    with _listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        running = make_server(create_app(service, key=KEY, local=True), service)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Running(service, f"http://127.0.0.1:{port}")
        running.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=KEY, base_url=f"{server.url}/v1", max_retries=0, timeout=120
    ) as made:
        yield made


@pytest.fixture(scope="session")
def http(server: Running) -> Iterator[httpx.Client]:
    with server.http() as made:
        yield made
