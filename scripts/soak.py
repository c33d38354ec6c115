"""Many clients on all routes of a server for a while: are its answers right, and does it stay well?

Starts `omni-diffusion serve` on a free port of the loopback and never calls another machine. First
each kind of request is answered alone; then clients send them mixed. One in ten is cancelled, one
in twenty is malformed. Each answer is compared with the one given alone. Prints and writes: wrong,
stuck and failed requests, seconds by route (p50, p95), seconds until admission, first text, sound
and picture against the whole, and the server's memory over time.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from omni_diffusion.demo.jobs import INPUTS
from omni_diffusion.io import files

CANCELLED, MALFORMED = 0.10, 0.05
BUSY, ROUNDS, GAP = 8, 3, 0.5  # pictures at first, rounds after them, seconds between requests
PATIENCE = 600.0  # seconds after which a request counts as stuck


def uri(name: str) -> str:
    """A file of the demo as data URI."""
    return "data:image/png;base64," + base64.b64encode((INPUTS / name).read_bytes()).decode()


@dataclass(frozen=True)
class Kind:
    """A kind of request, and what of its answer must stay the same."""

    name: str
    path: str
    body: dict[str, Any]
    answer: Callable[[httpx.Response], Any]
    file: str | None = None

    def options(self) -> dict[str, Any]:
        """The arguments of httpx."""
        if self.file is None:
            return {"json": self.body}
        return {"data": self.body, "files": {"file": (INPUTS / self.file).read_bytes()}}


def chat(content: Any, **more: Any) -> dict[str, Any]:
    """A body of chat."""
    return {"model": "mini", "messages": [{"role": "user", "content": content}], **more}


def text_of(answer: httpx.Response) -> Any:
    """The text of a chat."""
    return answer.json()["choices"][0]["message"]["content"]


def streamed_text(answer: httpx.Response) -> str:
    """The text of a streamed chat."""
    chunks = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [json.loads(chunk)["choices"] for chunk in chunks]
    return "".join(c[0]["delta"].get("content") or "" for c in choices if c)


def digest(answer: httpx.Response) -> str:
    """A digest of the bytes."""
    return hashlib.sha256(answer.content).hexdigest()[:16]


def picture_of(answer: httpx.Response) -> str:
    """A digest of the picture."""
    return hashlib.sha256(answer.json()["data"][0]["b64_json"].encode()).hexdigest()[:16]


def kinds() -> list[Kind]:
    """One of each route; short, since the machine is small."""
    chats, steps = "/v1/chat/completions", {"num_inference_steps": 4}
    image = {"type": "image_url", "image_url": {"url": uri("penguin-cow.png")}}
    question = {"type": "text", "text": "what is to the right of the penguin?"}
    sound = base64.b64encode((INPUTS / "color-of-elephant.ogg").read_bytes()).decode()
    spoken = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    speech = {"model": "mini", "voice": "alloy", "input": "a dog", **steps}
    blank = {"type": "blank", "kind": "text", "length": 1}
    infill = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": uri("penguin-cow.png")}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, blank]},
        ]
    }
    return [
        Kind("chat", chats, chat("what is a cake?"), text_of),
        Kind("chat stream", chats, chat("what is a bus?", stream=True), streamed_text),
        Kind("vqa", chats, chat([question, image]), text_of),
        Kind("spoken question", chats, chat([spoken], **steps), text_of),
        Kind("image", "/v1/images/generations", {"prompt": "a red ball", **steps}, picture_of),
        Kind("speech", "/v1/audio/speech", {**speech, "response_format": "wav"}, digest),
        Kind("transcription", "/v1/audio/transcriptions", {"model": "mini"},
             lambda answer: answer.json()["text"], "dog.ogg"),
        Kind("infill", "/v1/infill", infill, lambda answer: answer.json()["parts"]),
    ]  # fmt: skip


@dataclass
class Tally:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str, kind: str, seconds: float | None = None) -> None:
        """Count one request."""
        with self.lock:
            self.outcomes[outcome] += 1
            if seconds is not None:
                self.seconds[kind].append(seconds)


def client(
    url: str, until: float, seed: int, mix: list[Kind], alone: dict[str, Any], tally: Tally
) -> None:
    """One client: a request after the other until the time is over."""
    dice = random.Random(seed)
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        while time.monotonic() < until:
            kind, luck = dice.choice(mix), dice.random()
            try:
                if luck < CANCELLED:
                    _cancelled(http, kind, dice.uniform(0.01, 1.0))
                    tally.note("cancelled", kind.name)
                elif luck < CANCELLED + MALFORMED:
                    answer = http.post(kind.path, json={**kind.body, "nonsense": 1})
                    refused = answer.status_code in (400, 415)
                    tally.note("refused" if refused else "malformed but accepted", kind.name)
                else:
                    _asked(http, kind, alone, tally)
            except httpx.TimeoutException:
                tally.note("stuck", kind.name)
            except httpx.HTTPError as error:
                tally.note(f"failed: {type(error).__name__}", kind.name)


def _asked(http: httpx.Client, kind: Kind, alone: dict[str, Any], tally: Tally) -> None:
    began = time.monotonic()
    answer = http.post(kind.path, **kind.options())
    if answer.status_code == 429:
        tally.note("asked to wait", kind.name)
        time.sleep(float(answer.headers["Retry-After"]))
        return
    if not answer.is_success:
        tally.note(f"status {answer.status_code}", kind.name)
        return
    found = kind.answer(answer)
    same = found == alone[kind.name]
    tally.note("right" if same else "other than alone", kind.name, time.monotonic() - began)
    if not same and len(tally.wrong) < 20:
        tally.wrong.append({"kind": kind.name, "alone": str(alone[kind.name])[:200],
                            "found": str(found)[:200]})  # fmt: skip


def _cancelled(http: httpx.Client, kind: Kind, after: float) -> None:
    try:
        http.post(kind.path, **kind.options(), timeout=httpx.Timeout(PATIENCE, read=after))
    except httpx.ReadTimeout:
        return


def first_parts(url: str) -> dict[str, dict[str, float]]:
    """Seconds to the first and to the last event of streams, each alone."""
    chats, steps = "/v1/chat/completions", {"num_inference_steps": 32}
    asked = {
        "word": (chats, chat("what is a cake?", stream=True), '"content": "'),
        "sound": ("/v1/audio/speech",
                  {"model": "mini", "voice": "alloy", "input": "a picture of two apples on blue",
                   "stream_format": "sse", "response_format": "pcm"}, "speech.audio.delta"),
        "picture": ("/v1/images/generations",
                    {"prompt": "a red ball", "stream": True, "partial_images": 3, **steps},
                    "partial_image"),
    }  # fmt: skip
    found = {}
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        for name, (path, body, mark) in asked.items():
            began, first = time.monotonic(), None
            with http.stream("POST", path, json=body) as answer:
                for line in answer.iter_lines():
                    if first is None and mark in line and '"content": ""' not in line:
                        first = time.monotonic() - began
            whole = time.monotonic() - began
            found[name] = {"first": round(first or whole, 3), "whole": round(whole, 3)}
    return found


def staggered(url: str) -> dict[str, Any]:
    """Seconds in the queue where requests come one after the other while pictures are drawn.

    Pictures of many steps fill the batch but for one slot and wait for more; then a chat, a picture
    and a sentence to speak come in turn, `GAP` seconds apart.
    """
    drawn = {"prompt": "a red ball", "num_inference_steps": 16}
    asked = [("/v1/images/generations", drawn)] * BUSY
    for _ in range(ROUNDS):
        asked += [
            ("/v1/chat/completions", chat("what is a cake?")),
            ("/v1/images/generations", {**drawn, "num_inference_steps": 4}),
            ("/v1/audio/speech", {"model": "mini", "voice": "alloy", "input": "a dog",
                                  "num_inference_steps": 4}),
        ]  # fmt: skip
    before = httpx.get(f"{url}/metrics").text
    threads = []
    for number, (path, body) in enumerate(asked):
        threads.append(threading.Thread(target=_post, args=(url + path, body)))
        threads[-1].start()
        time.sleep(GAP if number >= BUSY else 0)
    for thread in threads:
        thread.join()
    return {"requests": len(asked), "gap": GAP,
            "lanes": _admission(httpx.get(f"{url}/metrics").text, before)}  # fmt: skip


def _post(url: str, body: dict[str, Any]) -> None:
    httpx.post(url, json=body, timeout=PATIENCE).raise_for_status()


def memory(pid: int) -> float:
    """Resident MiB of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(port: int) -> subprocess.Popen[bytes]:
    """A server on the port, once it is ready."""
    command = [sys.executable, "-m", "omni_diffusion", "serve", "--port", str(port),
               "--timeout", str(PATIENCE)]  # fmt: skip
    server = subprocess.Popen(command)
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready").is_success:
                return server
        except httpx.HTTPError:
            time.sleep(0.2)
    server.kill()
    raise SystemExit("the server did not start")


def soak(url: str, pid: int, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Run the clients, and say what came of it."""
    mix, tally, alone = kinds(), Tally(), {}
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        for kind in mix:
            answer = http.post(kind.path, **kind.options())
            answer.raise_for_status()
            alone[kind.name] = kind.answer(answer)
    first, apart = first_parts(url), staggered(url)
    until, sizes = time.monotonic() + seconds, [memory(pid)]
    threads = [
        threading.Thread(target=client, args=(url, until, seed + n, mix, alone, tally))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        sizes.append(memory(pid))
    metrics = httpx.get(f"{url}/metrics").text
    return {
        "clients": clients,
        "seconds": seconds,
        "outcomes": dict(tally.outcomes),
        "other_than_alone": tally.wrong,
        "routes": {name: _quantiles(found) for name, found in sorted(tally.seconds.items())},
        "admission": _admission(metrics),
        "staggered": apart,
        "first_alone": first,
        "waiting_at_the_end": _waiting(metrics),
        "memory_mib": {
            "start": round(sizes[0]),
            "middle": round(statistics.median(sizes)),
            "end": round(sizes[-1]),
            "most": round(max(sizes)),
        },
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def _quantiles(found: list[float]) -> dict[str, float]:
    ordered = sorted(found)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"n": len(found), "p50": round(statistics.median(found), 2), "p95": round(p95, 2)}


def _numbers(metrics: str, name: str) -> dict[str, float]:
    lines = [line for line in metrics.splitlines() if line.startswith(name)]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def _admission(metrics: str, before: str = "") -> dict[str, Any]:
    """Seconds in the queue by lane, since `before`: the mean, and bounds of the quantiles.

    p50 and p95 are the upper edges of the histogram's buckets that they fall into; None is beyond
    the last.
    """
    shown: dict[str, dict[str, float | None]] = {}
    for lane in ("text", "speech", "image"):
        head = f'omni_diffusion_admission_seconds_%s{{lane="{lane}"'
        count, total, buckets = (
            {key: value - _numbers(before, name).get(key, 0.0)
             for key, value in _numbers(metrics, name).items()}
            for name in (head % "count", head % "sum", head % "bucket")
        )  # fmt: skip
        requests = sum(count.values())
        if not requests:
            continue
        shown[lane] = {"n": int(requests), "mean": round(sum(total.values()) / requests, 3)}
        for name, part in (("p50", 0.5), ("p95", 0.95)):
            edges = (key for key, value in buckets.items() if value >= part * requests)
            edge = next(edges).partition('le="')[2].partition('"')[0]
            shown[lane][name] = None if edge == "+Inf" else float(edge)
    return shown


def _waiting(metrics: str) -> float:
    return sum(_numbers(metrics, "omni_diffusion_waiting").values()) + sum(
        _numbers(metrics, "omni_diffusion_batch").values()
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32, help="clients at once (default: 32)")
    parser.add_argument("--seconds", type=float, default=900, help="length (default: 900)")
    parser.add_argument("--seed", type=int, default=0, help="of the clients' choices (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    options = parser.parse_args()
    port = free_port()
    server = start(port)
    try:
        report = soak(
            f"http://127.0.0.1:{port}", server.pid, options.clients, options.seconds, options.seed
        )
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        report["exit"] = {"code": server.wait(60), "seconds": round(time.monotonic() - began, 1)}
    finally:
        server.kill()
    text = json.dumps(report, indent=2)
    print(text)
    if options.out is not None:
        files.write_text(options.out, text + "\n")
    failed = {
        name: number for name, number in report["outcomes"].items()
        if name not in ("right", "cancelled", "refused", "asked to wait")
    }  # fmt: skip
    if failed or report["waiting_at_the_end"]:
        raise SystemExit(f"not as expected: {failed}, waiting {report['waiting_at_the_end']}")


if __name__ == "__main__":
    main()
