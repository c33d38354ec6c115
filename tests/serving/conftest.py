"""Servers on free ports: a tiny model for what must be quick, the small model for meaning."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import openai
import pytest
from tests.tiny import tiny_model

from omni_diffusion.cli.serve import listen
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.ask import Inputs
from omni_diffusion.engine.engine import Engine
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.app import create_app, open_service
from omni_diffusion.serving.limits import Limits
from omni_diffusion.serving.run import Server, make_server
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
    server: Server

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
    send_buffer: int | None = None,
) -> Iterator[Running]:
    examples = {"chat": [Inputs("what is a cake?")]}
    service = open_service(
        model, name="mini", limits=limits, max_batch=max_batch, examples=examples
    )
    with listen("127.0.0.1", 0) as listening:
        if send_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        port = listening.getsockname()[1]
        running = make_server(create_app(service, key=key, origins=origins, local=True), service)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Running(service, f"http://127.0.0.1:{port}", port, running)
        finally:
            running.should_exit = True
            thread.join(timeout=60)
        assert not thread.is_alive()
        assert not service.worker.alive


class Brake:
    """Holds the engines of this process after so many steps; cancelling goes on."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._step = Engine.step

    def hold_after(self, steps: int) -> None:
        self._left = steps

    def release(self) -> None:
        self._left = None

    def step(self, engine: Engine, *, block: bool = True) -> list[str]:
        if self._left is not None and engine._running:
            if self._left == 0:
                time.sleep(0.01)
                return []
            self._left -= 1
        return self._step(engine, block=block)


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    """A state that passes is held until the test has seen it, however slow the machine is."""
    made = Brake()
    monkeypatch.setattr(Engine, "step", lambda engine, **how: made.step(engine, **how))
    yield made
    made.release()


def left_to_right() -> OmniModel:
    """A tiny model that writes text and speech one token a step, from left to right."""
    model = tiny_model()
    sampling = dict.fromkeys(("chat", "tts", "asr"), SamplingParams(block_length=1, seed=3))
    model.config = replace(model.config, generation=replace(model.generation, sampling=sampling))
    return model


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
