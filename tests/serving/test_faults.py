"""What clients and networks do: leave, stall, send too much, or what is no medium at all."""

import base64
import contextlib
import errno
import io
import json
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
import soundfile
import torch
from tests.serving.conftest import KEY, LIMITS, Brake, Running, left_to_right, serving
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel

pytestmark = pytest.mark.slow  # clients that stall take their time

LONG = {"task": "chat", "text": "two dogs", "max_tokens": 900}
CHAT = {"model": "mini", "messages": [{"role": "user", "content": "two dogs"}]}


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def until_idle(running: Running) -> None:
    until(lambda: not running.service.worker._accepted)


def until(found: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def count(running: Running, name: str, **labels: str) -> float:
    registry = running.service.metrics.registry
    return registry.get_sample_value(f"omni_diffusion_{name}", labels) or 0.0


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return error  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------- clients that go
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True, "answer_tokens": 900}),
        ("/v1/chat/completions", {**CHAT, "answer_tokens": 900}),
        ("/v1/images/generations", {"prompt": "a tree", "stream": True, "partial_images": 3}),
        ("/v1/audio/speech", {"model": "mini", "voice": "alloy", "input": "two dogs " * 9}),
    ],
)
def test_a_client_that_leaves_ends_its_request(tiny: Running, path: str, body: Any) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        until = time.monotonic() + 10
        while not tiny.service.worker._accepted and time.monotonic() < until:
            time.sleep(0.002)
    until_idle(tiny)


@pytest.fixture(scope="module")
def steady() -> Iterator[Running]:
    with serving(left_to_right()) as running:
        yield running


def multipart(**parts: bytes) -> dict[str, Any]:
    return {"files": {name: (name, data) for name, data in parts.items()}}


def opaque_but(box: tuple[int, int, int, int]) -> bytes:
    mask, out = PIL.Image.new("L", (8, 8)), io.BytesIO()
    mask.paste(255, box)
    mask.save(out, "PNG")
    return out.getvalue()


PICTURE = {
    "prompt": "a tree", "stream": True, "partial_images": 3, "num_inference_steps": 16
}  # fmt: skip
SPEECH = {"model": "mini", "voice": "alloy", "input": "two dogs to the left of a tree " * 4,
          "temperature": 1, "seed": 2}  # fmt: skip
STREAMS: dict[str, tuple[str, dict[str, Any], int]] = {  # path, body, steps until the first bytes
    "text": (
        "/v1/chat/completions", {"json": {**CHAT, "stream": True, "answer_tokens": 300}}, 60
    ),
    "spoken text": (
        "/v1/chat/completions",
        {"json": {**CHAT, "stream": True, "answer_tokens": 300, "modalities": ["text", "audio"],
                  "audio": {"voice": "alloy", "format": "pcm16"}}},
        60,
    ),
    "picture": ("/v1/images/generations", {"json": PICTURE}, 8),
    "repainted picture": (
        "/v1/images/edits",
        {"data": {name: str(value).lower() for name, value in PICTURE.items()},
         **multipart(image=checkers(8).png_bytes(), mask=opaque_but((0, 0, 8, 6)))},
        8,
    ),
    "speech": ("/v1/audio/speech", {"json": {**SPEECH, "response_format": "pcm"}}, 40),
    "speech events": (
        "/v1/audio/speech",
        {"json": {**SPEECH, "response_format": "pcm", "stream_format": "sse"}},
        40,
    ),
    "transcript": (
        "/v1/audio/transcriptions",
        {"data": {"model": "mini", "stream": "true"}, **multipart(file=tone(9.0).wav_bytes())},
        5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_client_that_leaves_in_the_middle_of_a_stream(
    steady: Running, brake: Brake, name: str
) -> None:
    """The steps are held after the first bytes, so that there is a middle to leave in."""
    path, options, steps = STREAMS[name]
    before = cancelled(steady)
    brake.hold_after(steps)
    with steady.http() as http:
        with http.stream("POST", path, **options) as answer:
            assert answer.is_success, answer.read()
            chunks = answer.iter_raw(64)  # closes the connection when it is forgotten
            assert next(chunks)
            until(lambda: steady.service.worker._accepted == 1)  # it may be sent before
            del chunks
        until_idle(steady)
        until(lambda: cancelled(steady) > before)
        brake.release()
        assert http.get("/health").is_success


def cancelled(running: Running) -> float:
    (tasks,) = (m for m in running.service.metrics.registry.collect() if m.name.endswith("_tasks"))
    return sum(
        sample.value
        for sample in tasks.samples
        if sample.name.endswith("_total") and sample.labels["outcome"] == "cancelled"
    )


def test_a_reader_that_leaves_a_job_does_not_end_it(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={**LONG, "max_tokens": 60}).json()
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert next(answer.iter_raw(64))
    assert read(http, job["id"])[-1][1] == "done"


def test_a_slow_body_is_given_up(tiny: Running) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert b"408" in client.recv(4096).split(b"\r\n")[0]


def test_a_client_that_reads_nothing_is_dropped() -> None:
    """Its answer is larger than what the network holds; the server does not wait for ever."""
    asked = {"prompt": "a tree", "size": "1024x1024", "n": 3, "num_inference_steps": 1}
    body = json.dumps(asked).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    with serving(tiny_model(), send_buffer=4096) as running, running.http() as http:
        assert len(http.post("/v1/images/generations", json=asked).content) > 300_000
        route = {"route": "/v1/images/generations", "status": "200"}
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", running.port))
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: count(running, "requests_total", **route) == 2)
            assert http.get("/health").status_code == 200
            until(lambda: len(running.server.server_state.connections) <= 1)  # that of `http`


# ------------------------------------------------------------------------------------- too much
def test_a_large_body_is_refused_before_it_is_read(tiny: Running) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(f"{head}Content-Length: {200 * 2**20}\r\n\r\n".encode())
        answer = client.recv(4096)
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"connection: close" in answer.lower()


def test_a_body_without_a_length_is_counted(http: httpx.Client) -> None:
    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 2**16

    try:
        answer = http.post(
            "/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"}
        )
    except (httpx.WriteError, httpx.ReadError):  # refused while it was sent
        return
    assert answer.status_code == 413


def test_two_hundred_megabytes_are_not_taken(tiny: Running, http: httpx.Client) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    piece, sent = b"10000\r\n" + b"x" * 2**16 + b"\r\n", 0
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n".encode())
        client.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 200 * 2**20:
                client.sendall(piece)
                sent += len(piece)
    assert sent < 20 * 2**20  # the limit of these servers is 1 MiB; the rest is in buffers
    assert http.get("/health").is_success
    assert tiny.service.worker._accepted == 0


def test_ten_thousand_headers_are_refused(tiny: Running, http: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            client.sendall(b"".join(b"X-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n")
            status = client.recv(4096).split(b"\r\n")[0]
        except ConnectionError:
            status = b" 400 "
    assert status == b"" or b" 4" in status
    assert http.get("/health").status_code == 200


def test_jobs_are_kept_in_a_bounded_number(http: httpx.Client) -> None:
    answers = [http.post("/v1/jobs", json={"text": "two dogs", "params": {"steps": 1}})
               for _ in range(LIMITS.jobs + 4)]  # fmt: skip
    assert {answer.status_code for answer in answers} <= {202, 429}
    assert http.get(f"/v1/jobs/{answers[-1].json().get('id', 'none')}").status_code in (200, 404)


# -------------------------------------------------------------------------------- malformed media
def bomb() -> bytes:
    """A small file of a picture of 2 gigapixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 46_000, 46_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", uri(bomb())),
        ("image", uri(Picture(torch.zeros(600, 600, 3, dtype=torch.uint8)).png_bytes())),
        ("image", uri(checkers(8).png_bytes()[:-30])),
        ("image", uri(b"GIF89a")),
        ("image", uri(b"")),
        ("image", "data:image/png;base64,@@@"),
        ("image", "file:///etc/passwd"),
        ("image", "https://example.org/a.png"),
        ("image", "/etc/passwd"),
        ("audio", uri(tone(21.0).wav_bytes(), "audio/wav")),
        ("audio", uri(tone().wav_bytes()[:30], "audio/wav")),
        ("audio", uri(Waveform(torch.zeros(1, 16_000), 16_000).wav_bytes(), "audio/wav")),
        ("audio", uri(b"\x00" * 999, "audio/wav")),
    ],
)
def test_a_medium_that_is_none_is_refused(http: httpx.Client, field: str, value: str) -> None:
    answer = http.post("/v1/jobs", json={field: value})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == field


def test_a_mask_is_a_box_or_a_picture_and_never_a_path(http: httpx.Client) -> None:
    image = uri(checkers(8).png_bytes())
    body = {"task": "inpaint", "image": image, "params": {"steps": 1}}
    assert http.post("/v1/jobs", json={**body, "mask": "0,0,4,4"}).status_code == 202
    for mask in ("0,0,40,40", "/etc/passwd", uri(checkers(4).png_bytes()), "1,2,3"):
        answer = http.post("/v1/jobs", json={**body, "mask": mask})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "mask")


# ------------------------------------------------------------------------------------ bad requests
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'{"text": "\\ud800"}', "application/json", 400),
        (b'{"text": "a", "seed": 1e999}', "application/json", 400),
        (b'{"text": "a", "params": {"temperature": NaN}}', "application/json", 400),
        (b'{"text": "a", "params": {"steps": 2.5}}', "application/json", 400),
        (b'{"text": "a", "params": {"task": "chat"}}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
    ],
)
def test_a_body_that_is_none_is_refused(
    http: httpx.Client, content: bytes, kind: str, status: int
) -> None:
    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    error_of(answer)


def test_a_form_that_is_none_is_refused(http: httpx.Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (
        b"",
        b"--x\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
    ):
        answer = http.post("/v1/audio/transcriptions", content=content, headers=headers)
        assert answer.status_code == 400
        error_of(answer)
    answer = http.post("/v1/audio/transcriptions", json={})
    assert answer.status_code == 415


def test_a_file_sent_as_text_and_text_sent_as_a_file_are_told(http: httpx.Client) -> None:
    text = {"image": (None, b"it"), "prompt": (None, b"a dog")}
    error = error_of(http.post("/v1/images/edits", files=text))
    assert (error["param"], error["code"]) == ("image", "invalid_type")
    file = {"image": ("it.png", b"it"), "prompt": ("it.txt", b"a dog")}
    error = error_of(http.post("/v1/images/edits", files=file))
    assert (error["param"], error["code"]) == ("prompt", "unknown_parameter")


def test_what_is_not_there(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/jobs/job_0", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/web/../app.py", 404),
    ):
        answer = http.request(method, path)
        assert answer.status_code == status
        error_of(answer)


# ------------------------------------------------------------------------------------------ trust
def test_pages_of_others_may_not_call(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"Origin": "https://example.org"})
    assert answer.status_code == 403
    assert http.get("/v1/models", headers={"Origin": str(http.base_url).rstrip("/")}).is_success
    assert http.get("/health", headers={"Host": "example.org"}).status_code == 403


def test_a_page_that_is_allowed_may_call() -> None:
    page = "https://example.org"
    with serving(tiny_model(), origins=(page,)) as running, running.http() as http:
        answer = http.get("/v1/models", headers={"Origin": page})
        assert answer.headers["access-control-allow-origin"] == page
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "a"}
        preflight = httpx.options(f"{running.url}/v1/jobs", headers={"Origin": page, **asks})
        assert preflight.is_success


def test_the_key_guards_v1_alone(tiny: Running) -> None:
    with httpx.Client(base_url=tiny.url) as stranger:
        for path in ("/", "/health", "/ready", "/metrics"):
            assert stranger.get(path).is_success
        for header in ({}, {"Authorization": KEY}, {"Authorization": "Bearer ü".encode()}):
            answer = stranger.get("/v1/models", headers=header)
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"


def test_two_servers_on_one_port_are_one_line(tiny: Running) -> None:
    command = [sys.executable, "-m", "omni_diffusion", "serve", "--port", str(tiny.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot listen on 127.0.0.1:")
    assert ended.stderr.count("\n") == 1
    assert "(--port)" in ended.stderr


# ------------------------------------------------------------------------------------------- jobs
def events(lines: io.StringIO) -> list[tuple[int, str, Any]]:
    found = []
    for block in lines.getvalue().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def read(http: httpx.Client, id: str, **headers: str) -> list[tuple[int, str, Any]]:
    return events(io.StringIO(http.get(f"/v1/jobs/{id}/events", headers=headers).text))


def test_a_job_tells_each_step_and_a_second_reader_misses_nothing(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"text": "two dogs", "max_tokens": 12}).json()
    first, second = read(http, job["id"]), read(http, job["id"])
    assert first == second
    assert [number for number, _, _ in first] == list(range(len(first)))
    names = [name for _, name, _ in first]
    assert names[0] == "queued"
    assert names[1] == "layout"
    assert names[-1] == "done"
    layout = first[1][2]["positions"]
    steps = [data for _, name, data in first if name == "step"]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    filled = [position for step in steps for position, *_ in step["tokens"]]
    assert sorted(filled) == [i for i, each in enumerate(layout) if each[1] == "masked"]
    assert steps[-1]["masked"] == 0
    said = "".join(data["delta"] for _, name, data in first if name == "text")
    assert "".join(part["text"] for part in first[-1][2]["parts"]).strip() == said
    assert read(http, job["id"], **{"Last-Event-ID": "3"}) == first[4:]
    shown = http.get(f"/v1/jobs/{job['id']}").json()
    assert shown["status"] == "done"
    assert shown["parts"] == first[-1][2]["parts"]


def test_a_job_of_one_step_has_a_layout_too(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"text": "two dogs", "params": {"steps": 1}}).json()
    names = [name for _, name, _ in read(http, job["id"])]
    assert names.count("layout") == names.count("step") == 1


def test_a_job_is_cancelled(http: httpx.Client, tiny: Running) -> None:
    job = http.post("/v1/jobs", json=LONG).json()
    assert http.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    assert read(http, job["id"])[-1][1] == "cancelled"
    until_idle(tiny)


def test_the_error_of_a_job_is_an_event(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"text": "two dogs", "max_tokens": 5000}).json()
    last = read(http, job["id"])[-1]
    assert last[1] == "error"
    assert last[2]["error"]["param"] == "max_tokens"


def test_any_mix_of_parts_is_filled(http: httpx.Client) -> None:
    image = uri(checkers(12).png_bytes())
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": image}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "a red"},
                    {"type": "blank", "kind": "text", "length": 3},
                    {"type": "image", "image": image, "mask": "0,0,6,6"},
                ],
            },
        ],
        "params": {"steps": 2},
        "seed": 7,
    }
    answer = http.post("/v1/infill", json=body)
    assert answer.is_success, answer.text
    kinds = [part["type"] for part in answer.json()["parts"]]
    assert kinds == ["text", "image"]
    body["messages"] = body["messages"][:1]  # type: ignore[index]
    assert error_of(http.post("/v1/infill", json=body))["param"] == "messages"


# ------------------------------------------------------------------------------------------ disk
def one_of_each(http: httpx.Client) -> list[Any]:
    """What every kind of request is answered, without what differs between two calls."""
    quick = {"num_inference_steps": 2}
    made = http.post("/v1/images/generations", json={"prompt": "a tree", **quick})
    edit = STREAMS["repainted picture"][1]["files"]
    edited = http.post("/v1/images/edits", data={"prompt": "a tree", **quick}, files=edit)
    heard = http.post("/v1/audio/transcriptions", **STREAMS["transcript"][1])
    spoken = http.post("/v1/audio/speech", json={**SPEECH, "response_format": "wav", **quick})
    said = http.post("/v1/chat/completions", json={**CHAT, **quick})
    job = http.post("/v1/jobs", json={"text": "two dogs", "params": {"steps": 2}}).json()
    answers = [made, edited, heard, spoken, said]
    assert all(answer.is_success for answer in answers), [answer.text for answer in answers]
    assert http.get("/").is_success
    return [
        made.json()["data"],
        edited.json()["data"],
        heard.text,
        spoken.content,
        said.json()["choices"],
        read(http, job["id"])[-1][2]["parts"],
    ]


def test_the_folder_of_the_model_may_go(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model().save(folder)
    with serving(OmniModel.open(folder)) as running, running.http() as http:
        before = one_of_each(http)
        shutil.rmtree(folder)
        assert one_of_each(http) == before
        assert http.get("/ready").is_success


def test_a_full_disk_is_not_noticed(http: httpx.Client, tmp_path: Path) -> None:
    """Nothing is written: neither bodies nor jobs. Any write to a file fails in this test."""
    before = one_of_each(http)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            (tmp_path / "file").write_bytes(b"x")
        assert one_of_each(http) == before
        large = {"file": ("a.wav", tone(19.0, 24_000).wav_bytes())}  # 0.9 MB
        answer = http.post("/v1/audio/transcriptions", data={"model": "mini"}, files=large)
        assert answer.is_success, answer.text
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_request_that_the_system_fails_is_one_line(
    tiny: Running, http: httpx.Client, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def full(*_: object, **__: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = http.post("/v1/jobs", json={"text": "two dogs", "params": {"steps": 2}}).json()
    read(http, job["id"])
    with monkeypatch.context() as patched:
        patched.setattr(soundfile.SoundFile, "write", full)
        answer = http.post("/v1/audio/speech", json={**SPEECH, "response_format": "wav"})
        assert answer.status_code == 500
        assert error_of(answer)["code"] == "internal_error"
        failed = http.post("/v1/jobs", json={"task": "tts", "text": "two dogs"}).json()
        name, data = read(http, failed["id"])[-1][1:]
        assert name == "error"
        assert data["error"]["message"].count("\n") == 0
        assert http.get(f"/v1/jobs/{job['id']}").json()["status"] == "done"
    one_of_each(http)
    assert len(caplog.records) == 2


# -------------------------------------------------------------------------------------------- end
def test_what_runs_is_finished_when_the_server_ends() -> None:
    with serving(tiny_model()) as running, running.http() as http:
        job = http.post("/v1/jobs", json={**LONG, "max_tokens": 30}).json()
        running.service.worker.draining = True  # as the signal does
        assert http.get("/ready").status_code == 503
        refused = http.post("/v1/jobs", json=LONG)
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "shutting_down"
        assert read(http, job["id"])[-1][1] == "done"


def test_metrics_count(http: httpx.Client) -> None:
    http.post("/v1/chat/completions", json={**CHAT, "num_inference_steps": 1, "stream": True})
    text = http.get("/metrics").text
    for name in ("requests_total", "steps_total", "phase_seconds_bucket", "first_seconds_count"):
        assert f"omni_diffusion_{name}" in text
