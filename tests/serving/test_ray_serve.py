"""Replicas of the server on Ray: options, and a replica that is killed under load."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.tiny import tiny_model

from omni_diffusion.errors import ConfigError, MissingDependencyError
from omni_diffusion.serving.ray_serve import ReplicaOptions, app, application, scale

RAY = importlib.util.find_spec("ray") is not None
PATIENCE = {  # Ray's own, in seconds, for a busy machine
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "two dogs"}]}


def test_arguments_are_checked() -> None:
    for wrong in ({"replica": 2}, {"replicas": 0}, {"max_batch": "many"}):
        with pytest.raises(ConfigError) as caught:
            app(wrong)
        assert caught.value.field in wrong
    with pytest.raises(ConfigError, match="most_replicas is 1"):
        scale(ReplicaOptions(replicas=2, most_replicas=1))


def test_a_replica_takes_its_batch_and_its_queue() -> None:
    fixed = scale(ReplicaOptions(replicas=3, max_batch=4, queue=10, gpus=1))
    assert fixed["num_replicas"] == 3
    assert fixed["max_ongoing_requests"] >= 14
    assert fixed["ray_actor_options"]["num_gpus"] == 1
    growing = scale(ReplicaOptions(replicas=2, most_replicas=5, max_batch=4))
    assert "num_replicas" not in growing
    assert growing["autoscaling_config"]["max_replicas"] == 5
    assert growing["autoscaling_config"]["target_ongoing_requests"] == 4


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_the_error_says_how_to_get_it() -> None:
    with pytest.raises(MissingDependencyError, match="ray is not installed"):
        application(ReplicaOptions())


needs_ray = pytest.mark.skipif(not RAY, reason="needs the extra ray")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two replicas of a tiny model behind Ray's proxy."""
    for name, seconds in PATIENCE.items():
        monkeypatch.setenv(name, seconds)
    import ray
    from ray import serve

    tiny_model().save(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = ReplicaOptions(model=str(tmp_path / "model"), name="tiny", replicas=2, cpus=1)
    serve.run(application(options), name="tiny")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def replicas() -> list[int]:
    """The processes of the replicas."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"ray::") and b"replica" in line.lower() and b"tiny" in line:
                found.append(int(entry.name))
    return found


def client(url: str, until: float, seed: int, seen: Counter[str], texts: set[str]) -> None:
    streams = seed % 2 == 1
    with httpx.Client(base_url=url, timeout=120) as http:
        while time.monotonic() < until:
            asked = {**CHAT, "stream": streams, "answer_tokens": 24}
            try:
                answer = http.post("/v1/chat/completions", json=asked)
            except httpx.TimeoutException:
                seen["no answer"] += 1
            except httpx.HTTPError as error:
                seen[f"broken: {type(error).__name__}"] += 1
            else:
                if not answer.is_success:
                    seen[f"status {answer.status_code}"] += 1
                elif streams and "[DONE]" not in answer.text:
                    seen["cut without an error" if '"error"' not in answer.text else "event"] += 1
                else:
                    seen["whole"] += 1
                    if not streams:
                        texts.add(str(answer.json()["choices"][0]["message"]["content"]))


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_replica_answers_and_tells_when_its_engine_has_ended(tmp_path: Path) -> None:
    """The class that Ray makes replicas of, without a cluster."""
    tiny_model().save(tmp_path / "model")
    options = ReplicaOptions(model=str(tmp_path / "model"), name="tiny", most_replicas=3)
    made = application(options)._bound_deployment
    assert made.max_ongoing_requests == options.max_batch + options.queue + 8

    async def scenario() -> None:
        replica = made.func_or_class.__new__(made.func_or_class)
        await replica.__init__(*made.init_args, **made.init_kwargs)
        replica._set_asgi_app(replica.__serve_build_asgi_app__())
        await replica._run_asgi_lifespan_startup()
        transport = httpx.ASGITransport(replica.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as http:
            assert (await http.get("/ready")).json()["status"] == "ready"
            assert (await http.post("/v1/chat/completions", json=CHAT)).is_success
            for path in ("/", "/v1/jobs/job_0"):
                assert (await http.get(path)).status_code == 404
        replica.check_health()
        await replica.__del__()
        with pytest.raises(RuntimeError, match="ended"):
            replica.check_health()

    asyncio.run(scenario())


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_is_lost_without_an_error_when_a_replica_dies(url: str) -> None:
    with httpx.Client(base_url=url, timeout=120) as http:
        assert http.get("/ready").json()["status"] == "ready"
        assert http.get("/v1/models").json()["data"][0]["id"] == "tiny"
        for path in ("/", "/v1/jobs/job_0"):
            assert http.get(path).status_code == 404
        assert http.post("/v1/chat/completions", json={"model": "x"}).json()["error"]["param"]
    first = replicas()
    assert len(first) == 2
    seen: Counter[str] = Counter()
    texts: set[str] = set()
    until = time.monotonic() + 30
    threads = [threading.Thread(target=client, args=(url, until, n, seen, texts)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(8)
    before = seen["whole"]
    os.kill(first[0], signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=180)
    assert not any(thread.is_alive() for thread in threads)
    print(dict(seen))
    assert before > 0
    assert seen["whole"] > before  # the other replica went on
    assert seen["no answer"] == seen["cut without an error"] == 0
    assert len(texts) == 1  # whichever replica answers
    until = time.monotonic() + 120
    while len(set(replicas()) - {first[0]}) < 2:  # Ray starts another
        assert time.monotonic() < until
        time.sleep(0.5)


def test_options_have_the_defaults_of_the_command() -> None:
    made: Any = ReplicaOptions()
    assert (made.queue, made.deadline, made.max_batch) == (64, 300.0, 8)
