"""Servers on free ports: a tiny model for what must be quick, the small model for meaning."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from tests.tiny import tiny_model

from omni_diffusion.cli.serve import listen
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.app import create_app, open_service
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.run import make_server
from omni_diffusion.serving.service import Service

INPUTS = Path(__file__).resolve().parents[2] / "src" / "omni_diffusion" / "demo" / "inputs"
KEY = "a-key-of-tests"
LIMITS = Limits(body=2**20, pixels=300_000, audio_seconds=20, stall=1, drain=5, jobs=16)


@dataclass
class Running:
    """A server in this process."""

    service: Service
    url: str
    port: int

    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
        )

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(api_key=KEY, base_url=f"{self.url}/v1", max_retries=0, timeout=300)


@contextmanager
def serving(
    model: OmniModel,
    limits: Limits = LIMITS,
    max_batch: int = 4,
    key: str | None = KEY,
    origins: tuple[str, ...] = (),
) -> Iterator[Running]:
    examples = {"chat": [Inputs("what is a cake?")]}
    service = open_service(
        model, name="mini", limits=limits, max_batch=max_batch, examples=examples
    )
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        running = make_server(create_app(service, key=key, origins=origins, local=True), service)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Running(service, f"http://127.0.0.1:{port}", port)
        finally:
            running.should_exit = True
            thread.join(timeout=60)
        assert not thread.is_alive()
        assert not service.worker.alive


@pytest.fixture(scope="session")
def tiny() -> Iterator[Running]:
    with serving(tiny_model()) as running:
        yield running


@pytest.fixture(scope="session")
def http(tiny: Running) -> Iterator[httpx.Client]:
    with tiny.http() as made:
        yield made


@pytest.fixture(scope="session")
def tiny_client(tiny: Running) -> Iterator[openai.OpenAI]:
    with tiny.openai() as made:
        yield made


@pytest.fixture(scope="session")
def small() -> Iterator[Running]:
    with serving(OmniModel.open()) as running:
        yield running


@pytest.fixture(scope="session")
def client(small: Running) -> Iterator[openai.OpenAI]:
    with small.openai() as made:
        yield made
