"""The page in a browser, before a real server with the small model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from tests.serving.conftest import Brake

from omni_diffusion.demo.jobs import DEMO_JOBS, INPUTS, with_gaps
from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Result
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("fastapi", reason="needs the extra serve")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
    " --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
).split()
PENGUIN, HOUSES = INPUTS / "penguin-cow.png", INPUTS / "houses.png"
PATIENCE = 600_000  # milliseconds for an event on a busy machine


class Running:
    """A server on a port of its own that can go away and come back."""

    def __init__(self, model: OmniModel, key: str | None = None) -> None:
        self.model, self.key = model, key
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        import uvicorn

        from omni_diffusion.serving.app import create_app, open_service

        jobs = [with_gaps(job, self.model.codecs.text) for job in DEMO_JOBS]
        examples = {job.task: [job.inputs.read()] for job in jobs}
        service = open_service(self.model, examples=examples, about="Scenes of 40 things.")
        app = create_app(service, key=self.key)
        config = uvicorn.Config(app, port=self.port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class Line:
    """A connection to a server that can be cut in the middle."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._ends: list[socket.socket] = []
        self._port = 0
        self.mend()
        self.url = f"http://127.0.0.1:{self._port}/"

    def mend(self) -> None:
        self._entry = socket.create_server(("127.0.0.1", self._port))
        self._port = self._entry.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._entry,), daemon=True).start()

    def cut(self) -> None:
        for end in (self._entry, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, entry: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = entry.accept()
                far = socket.create_connection(("127.0.0.1", self._server.port))
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.open()


@pytest.fixture(scope="module")
def server(model: OmniModel) -> Iterator[Running]:
    running = Running(model)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def view(browser: Any, server: Running) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end nothing went wrong in it and nobody else was asked anything."""
    with contextlib.ExitStack() as stack:

        def open_page(running: Running | Line = server, **context: Any) -> Any:
            allowed = ["microphone", "clipboard-read", "clipboard-write"]
            pages = browser.new_context(permissions=allowed, **context)
            stack.callback(pages.close)
            page = pages.new_page()
            page.set_default_timeout(PATIENCE)
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda said: wrong.append(said.text) if _wrong(said) else None)
            page.on(
                "request", lambda sent: wrong.append(sent.url) if _away(sent, running) else None
            )
            stack.callback(lambda: wrong and pytest.fail("\n".join(wrong)))
            page.goto(running.url)
            return page

        yield open_page


def _wrong(said: Any) -> bool:
    return said.type == "error" and "Failed to load resource" not in said.text  # 400s are meant


def _away(sent: Any, running: Running | Line) -> bool:
    return not sent.url.startswith((running.url, "data:", "blob:" + running.url))


def ready(page: Any) -> None:
    page.locator('#state[data-state="ready"]').wait_for()
    page.locator(".example").first.wait_for()


def settings(page: Any, **values: int) -> None:
    page.click("#more")
    for name, value in values.items():
        page.fill(f'[name="{name}"]', str(value))
    page.focus("#text")


def answered(page: Any, number: int = 1) -> Any:
    """The newest card, once so many are finished."""
    page.locator("#session .card:not(.busy)").nth(number - 1).wait_for()
    return page.locator("#session .card").first


def answer(card: Any) -> Any:
    return card.locator(".sides > section").nth(1)


def result(model: OmniModel, task: str, inputs: Inputs, **overrides: Any) -> Result:
    (found,) = Engine(model).run([ask(task, inputs, **overrides)])
    return found


def sent_by(page: Any, act: Callable[[], object]) -> dict[str, Any]:
    """The body of the job that an action sends."""
    with page.expect_request(lambda sent: sent.method == "POST") as caught:
        act()
    body: dict[str, Any] = json.loads(caught.value.post_data)
    return body


def content(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))


def test_a_typed_question_is_answered_as_the_engine_answers_it(
    view: Callable[..., Any], model: OmniModel
) -> None:
    page = view()
    ready(page)
    page.keyboard.type("what is a cake?")
    assert page.locator("#tasks :checked").input_value() == "chat"
    page.keyboard.press("Enter")
    card = answered(page)
    (part,) = result(model, "chat", Inputs("what is a cake?")).parts
    assert answer(card).locator(".said").inner_text() == part.text  # type: ignore[union-attr]
    assert page.locator("#said").inner_text() == f"Answer: {part.text}"  # type: ignore[union-attr]
    assert page.locator("#text").input_value() == ""
    assert card.locator(".cell.blank").count() == 1  # of the legend


def test_the_task_follows_the_inputs_and_can_be_changed(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)

    def tasks() -> tuple[str, ...]:
        chosen = page.locator("#tasks :checked").input_value()
        offered = page.locator("#tasks input").evaluate_all("all => all.map(one => one.value)")
        return (chosen, *sorted(set(offered) - {chosen}))

    page.fill("#text", "two dogs on a blue background")
    assert tasks() == ("t2i", "chat", "tts")
    page.check('#tasks [value="tts"]', force=True)
    page.fill("#text", "two dogs on a pink background")
    assert tasks() == ("tts", "chat", "t2i")  # what a person chose stays
    page.set_input_files("#picture-file", PENGUIN)
    page.locator("#given img").wait_for()
    assert tasks() == ("vqa",)
    page.fill("#text", "")
    assert tasks() == ("caption",)
    page.fill("#text", "a _ on blue")
    assert tasks()[0] == "infill"
    page.set_input_files("#sound-file", INPUTS / "dog.ogg")
    page.locator("#given .sound").wait_for()
    assert page.locator("#problem").inner_text().startswith("No task takes text, a picture and")
    page.click("text=Remove >> nth=0")
    page.fill("#text", "")
    assert tasks() == ("sqa", "asr", "s2i")
    assert page.locator("#problem").is_hidden()


def test_a_picture_is_uploaded_dropped_or_pasted(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    data = base64.b64encode(PENGUIN.read_bytes()).decode()
    give = """([name, data]) => {
      const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      dispatchEvent(name === "paste"
        ? new ClipboardEvent(name, { ...options, clipboardData: transfer })
        : new DragEvent(name, { ...options, dataTransfer: transfer }));
    }"""
    for name in ("drop", "paste"):
        page.evaluate(give, [name, data])
        page.locator("#given img").wait_for()
        page.click("text=Remove")
        assert page.locator("#given img").count() == 0
    page.set_input_files("#picture-file", PENGUIN)
    page.locator("#given img").wait_for()
    body = sent_by(page, lambda: page.click("#send"))
    assert body["task"] == "caption"
    assert content(body["image"]).getvalue() == PENGUIN.read_bytes()
    assert answer(answered(page)).locator(".said").inner_text()


def test_large_pictures_are_shrunk_and_what_is_none_is_refused(
    view: Callable[..., Any], tmp_path: Path
) -> None:
    page = view()
    ready(page)
    (tmp_path / "none.png").write_text("not a picture")
    page.set_input_files("#picture-file", tmp_path / "none.png")
    page.locator("#problem:visible").wait_for()
    assert "none.png is not a picture" in page.locator("#problem").inner_text()
    Picture(torch.full((1200, 3000, 3), 90, dtype=torch.uint8)).write(tmp_path / "wide.jpg")
    page.set_input_files("#picture-file", tmp_path / "wide.jpg")
    page.locator("#given img").wait_for()
    sent = Picture.read(content(page.locator("#given img").get_attribute("src")))
    assert (sent.width, sent.height) == (1024, 410)


def test_a_recording_is_sent_as_wav(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    began = time.monotonic()
    page.click("#record")
    page.locator("#recording:visible").wait_for()
    page.wait_for_timeout(2500)
    shown = float(page.locator("#recording output").inner_text().removesuffix(" s"))
    page.click("#recording >> text=Use it")
    elapsed = time.monotonic() - began
    page.locator("#given .sound").wait_for()
    page.check('#tasks [value="asr"]', force=True)
    body = sent_by(page, lambda: page.click("#send"))
    waveform = Waveform.read(content(body["audio"]))
    assert waveform.rate == 16_000
    assert waveform.samples.shape[0] == 1
    assert 0.5 < shown <= waveform.seconds + 0.05 < elapsed
    assert float(waveform.samples.abs().max()) > 0.05  # the beeps of the browser's fake microphone
    assert answered(page).locator("code").inner_text() == "asr"


def test_escape_discards_a_recording(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    page.click("#record")
    page.locator("#recording:visible").wait_for()
    page.keyboard.press("Escape")
    page.locator("#recording").wait_for(state="hidden")
    assert page.locator("#given .sound").count() == 0


def test_a_painted_mask_is_repainted_and_nothing_else(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    page.set_input_files("#picture-file", HOUSES)
    page.click("text=Paint a mask")
    box = page.locator("#painter canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.7)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8, steps=5)
    page.mouse.up()
    page.click("#painter >> text=Use the mask")
    settings(page, steps=2)
    body = sent_by(page, lambda: page.click("#send"))
    assert (body["task"], body["params"]) == ("inpaint", {"steps": 2})
    given = Picture.read(HOUSES)
    hole = Picture.read(content(body["mask"])).pixels[..., 0]
    assert hole.shape == given.pixels.shape[:2]
    assert set(hole.unique().tolist()) == {0, 255}
    assert bool(hole[48, 48])  # the middle of the stroke
    assert not bool(hole[:36].any())
    made = answer(answered(page)).locator("img").get_attribute("src")
    pixels = Picture.read(content(made)).pixels
    assert torch.equal(pixels[hole == 0], given.pixels[hole == 0])


def test_a_mask_can_be_marked_without_a_mouse(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    page.set_input_files("#picture-file", HOUSES)
    page.click("text=Paint a mask")
    for side, value in {"left": 32, "top": 32, "right": 65, "bottom": 64}.items():
        page.fill(f'#painter [name="{side}"]', str(value))
    page.click('#painter [name="box"]')
    assert "64 × 64" in page.locator("#painter-note.fault").inner_text()
    page.fill('#painter [name="right"]', "64")
    page.press('#painter [name="right"]', "Tab")
    page.click('#painter [name="box"]')
    page.click("#painter >> text=Use the mask")
    settings(page, steps=1)
    body = sent_by(page, lambda: page.click("#send"))
    hole = Picture.read(content(body["mask"])).pixels[..., 0] > 0
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[32:64, 32:64] = True
    assert torch.equal(hole, expected)
    answered(page)


def test_the_canvas_fills_live_and_is_replayed(
    view: Callable[..., Any], model: OmniModel, brake: Brake
) -> None:
    page = view()
    ready(page)
    settings(page, steps=16, seed=3)
    page.fill("#text", "a dog on a blue background")
    brake.hold_after(12)
    page.keyboard.press("Enter")
    page.locator(".card.busy .frame canvas").wait_for()  # a picture while it forms
    page.locator(".card.busy .grid .cell.now").first.wait_for()
    brake.release()
    card = answered(page)
    assert "seed 3" in card.locator("header").inner_text()
    image = Picture.read(content(answer(card).locator("img").get_attribute("src")))
    (part,) = result(model, "t2i", Inputs("a dog on a blue background"), steps=16, seed=3).parts
    assert torch.equal(image.pixels, part.picture.pixels)  # type: ignore[union-attr]
    cells = card.locator(".grid .cell")
    assert cells.count() == 64
    assert card.locator(".frame canvas").is_hidden()
    slider = card.locator("input[type=range]")
    slider.fill("4")
    assert card.locator(".frame canvas").is_visible()
    assert card.locator(".grid .cell.now").count() == 4
    assert card.locator(".grid .cell.blank").count() == 48
    assert card.locator(".replay output").inner_text() == "step 4 of 16 · 16 of 64 filled"
    assert slider.get_attribute("aria-valuetext") == "step 4 of 16 · 16 of 64 filled"
    card.locator(".grid .cell.now").first.hover()
    assert "step 4, confidence" in page.locator(".tip").inner_text()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    assert card.locator(".grid .cell.blank").count() == 52
    card.locator(".bar button").click()
    card.locator(".grid .cell.blank").first.wait_for(state="detached")


def test_a_spoken_answer_is_drawn_and_heard(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    settings(page, steps=24)
    page.uncheck("[name=aloud]")
    page.fill("#text", "a dog on a blue background")
    page.check('#tasks [value="tts"]', force=True)
    page.click("#send")
    sound = answer(answered(page)).locator(".sound")
    assert len(sound.locator("path").first.get_attribute("d")) > 1000
    sound.locator("button").click()
    heard = sound.locator("clipPath rect")
    played = "rect => Number(rect.getAttribute('width')) > 0.02"
    page.wait_for_function(played, arg=heard.element_handle())
    page.click("#session >> text=Use the sound")
    page.locator("#given .sound").wait_for()
    assert page.locator("#tasks input").count() == 3


def test_stop_ends_the_work_of_the_server(
    view: Callable[..., Any], server: Running, brake: Brake
) -> None:
    page = view()
    ready(page)
    for stop in (lambda: page.click("text=Stop"), lambda: page.keyboard.press("Escape")):
        page.fill("#text", "a dog on a blue background")
        brake.hold_after(4)
        with page.expect_response(lambda got: got.request.method == "POST") as caught:
            page.keyboard.press("Enter")
        job = caught.value.json()["id"]
        page.locator(".card.busy .cell.now").first.wait_for()
        stop()
        card = answered(page)
        assert card.locator("header .quiet").inner_text() == "stopped"
        with urlopen(f"{server.url}v1/jobs/{job}") as got:
            assert json.load(got)["status"] == "cancelled"
        brake.release()
        page.click("text=Clear the session")
        assert page.locator("#session .card").count() == 0


def test_the_session_outlives_a_reload(view: Callable[..., Any], brake: Brake) -> None:
    page = view()
    ready(page)
    page.fill("#text", "what is a cake?")
    page.keyboard.press("Enter")
    said = answer(answered(page)).locator(".said").inner_text()
    settings(page, steps=32)
    page.fill("#text", "a dog on a blue background")
    brake.hold_after(4)
    page.keyboard.press("Enter")
    page.locator(".card.busy .cell.now").first.wait_for()
    page.reload()
    brake.release()
    answered(page, 2)
    cards = page.locator("#session .card")
    assert answer(cards.nth(0)).locator("img").is_visible()
    assert cards.nth(0).locator(".grid .cell.blank").count() == 0
    assert answer(cards.nth(1)).locator(".said").inner_text() == said
    cards.nth(1).locator("text=Use again").click()
    page.locator("#tasks :checked").wait_for(state="attached")
    assert page.locator("#text").input_value() == "what is a cake?"


def test_a_refusal_names_its_field_and_keeps_the_request(view: Callable[..., Any]) -> None:
    page = view()
    ready(page)
    page.click("#send")
    assert page.locator("#problem").inner_text() == "Type, speak or add a picture first."
    settings(page, steps=0)
    page.fill("#text", "is a dog an animal?")
    page.keyboard.press("Enter")
    page.locator('[name="steps"][aria-invalid="true"]').wait_for()
    assert "steps is 0" in page.locator("#problem").inner_text()
    assert page.locator("#text").input_value() == "is a dog an animal?"
    assert page.locator("#session .card").count() == 0
    page.fill('[name="steps"]', "")
    page.click("#send")
    answered(page)
    assert page.locator("#problem").is_hidden()


def test_a_broken_line_is_taken_up_where_it_broke(
    view: Callable[..., Any], server: Running, brake: Brake
) -> None:
    line = Line(server)
    page = view(line)
    ready(page)
    page.fill("#text", "a dog on a blue background")
    brake.hold_after(4)
    page.keyboard.press("Enter")
    page.locator(".card.busy .cell.now").first.wait_for()
    line.cut()
    page.locator("#away:visible").wait_for()
    line.mend()
    brake.release()
    page.locator("#away").wait_for(state="hidden")
    card = answered(page)
    assert answer(card).locator("img").is_visible()
    assert card.locator(".grid .cell.blank").count() == 0
    line.cut()


def test_a_server_that_goes_and_comes_back(view: Callable[..., Any], model: OmniModel) -> None:
    own = Running(model)
    page = view(own)
    ready(page)
    page.fill("#text", "what is a cake?")
    page.keyboard.press("Enter")
    answered(page)
    own.stop()
    page.fill("#text", "is a dog an animal?")
    page.keyboard.press("Enter")
    page.locator("#away:visible").wait_for()
    assert "Your request is still here" in page.locator("#problem").inner_text()
    own.start()
    try:
        page.locator("#away").wait_for(state="hidden")
        page.click("#send")
        answered(page, 2)
        page.reload()
        page.locator(".fault >> text=The server no longer keeps this answer").wait_for()
    finally:
        own.stop()


def test_a_locked_server_asks_for_its_key(view: Callable[..., Any], model: OmniModel) -> None:
    own = Running(model, key="sesame")
    try:
        page = view(own)
        page.locator("#lock[open]").wait_for()
        page.fill("#lock input", "wrong")
        page.keyboard.press("Enter")
        page.locator("#lock .fault:visible").wait_for()
        page.fill("#lock input", "sesame")
        page.keyboard.press("Enter")
        ready(page)
        page.fill("#text", "what is a cake?")
        page.keyboard.press("Enter")
        answered(page)
        assert "sesame" not in page.locator("text=curl").get_attribute("data-code")
    finally:
        own.stop()


@pytest.fixture
def copied(view: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A question about a picture: what was answered, and the request as each code."""
    page = view()
    ready(page)
    settings(page, steps=3)
    page.set_input_files("#picture-file", PENGUIN)
    page.fill("#text", "what's to the right of the penguin?")
    page.click("#send")
    card = answered(page)
    with page.expect_download() as caught:
        card.locator("text=Save picture.png").click()
    caught.value.save_as(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    codes = {}
    for name in ("curl", "Python", "OpenAI SDK"):
        card.locator(f".actions >> text={name}").click()
        card.locator("text=Copied").wait_for()
        codes[name] = page.evaluate("navigator.clipboard.readText()")
        card.locator("text=Copied").wait_for(state="detached")
    return answer(card).locator(".said").inner_text(), codes


def test_copied_requests_run(copied: Any, capsys: pytest.CaptureFixture[str]) -> None:
    said, codes = copied
    done = subprocess.run(["bash", "-c", codes["curl"]], capture_output=True, text=True, check=True)
    assert f'"text": "{said}"' in done.stdout
    exec(compile(codes["Python"], "copied", "exec"), {})
    assert said in capsys.readouterr().out
    pytest.importorskip("openai")
    exec(compile(codes["OpenAI SDK"], "copied", "exec"), {})
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_narrow_screen(view: Callable[..., Any], scheme: str) -> None:
    page = view(viewport={"width": 320, "height": 640}, color_scheme=scheme)
    ready(page)
    settings(page, steps=4)
    page.fill("#text", "a dog on a blue background")
    page.keyboard.press("Enter")
    answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(246, 245, 242)", "dark": "rgb(21, 22, 26)"}[scheme]
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
