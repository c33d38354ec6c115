"""What clients and networks do: leave, stall, send too much, or what is no medium at all."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
import torch
from tests.serving.conftest import KEY, LIMITS, Running, serving
from tests.tiny import checkers, tiny_model, tone

from omni_diffusion.media import Picture, Waveform

LONG = {"task": "chat", "text": "two dogs", "max_tokens": 900}
CHAT = {"model": "mini", "messages": [{"role": "user", "content": "two dogs"}]}


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def until_idle(running: Running) -> None:
    until = time.monotonic() + 20
    while running.service.worker._accepted:
        assert time.monotonic() < until
        time.sleep(0.01)


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


def test_a_slow_body_is_given_up(tiny: Running) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        assert b"408" in client.recv(4096).split(b"\r\n")[0]


def test_a_client_that_reads_nothing_is_left(tiny: Running, http: httpx.Client) -> None:
    """Its answer is larger than what the network holds; the server does not wait for ever."""
    job = http.post(
        "/v1/jobs", json={"task": "t2i", "text": "a tree", "stream": {"every": 1}}
    ).json()
    while http.get(f"/v1/jobs/{job['id']}").json()["status"] != "done":
        time.sleep(0.02)
    with socket.create_connection(("127.0.0.1", tiny.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = f"GET /v1/jobs/{job['id']}/events HTTP/1.1\r\nHost: localhost\r\n"
        client.sendall(f"{ask}Authorization: Bearer {KEY}\r\n\r\n".encode())
        time.sleep(0.1)
        assert http.get("/health").status_code == 200


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
