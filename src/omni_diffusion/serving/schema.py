"""The bodies of requests, checked: OpenAI's fields, vLLM-Omni's knobs, and what we do not have.

A field that OpenAI does not have is refused, as OpenAI does. A field that OpenAI has and that would
change the answer is refused unless it has a value that changes nothing. What changes no answer
(`user`, `metadata`, ..) is accepted and has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.errors import OmniError
from omni_diffusion.serving.faults import ApiError, api_error, unsupported
from omni_diffusion.tasks.defaults import FIELDS, override

WITHOUT_EFFECT = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention"
    " prompt_cache_options moderation verbosity".split()
)
NOT_HERE = "this model has nothing that it would set"
OFF: tuple[Any, ...] = (None, False, 0, 0.0, "", [], {})


class Body(BaseModel):
    """A body; `neutral` names OpenAI's fields that we lack, with the values that change nothing."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}


class Knobs(Body):
    """Sampling under OpenAI's and vLLM-Omni's names."""

    model: str | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=4096)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None

    def overrides(self, choice: int = 0) -> dict[str, Any]:
        """Fields of `SamplingParams`; the seed counts on for the further choices of a request."""
        seed = None if self.seed is None and not choice else ((self.seed or 0) + choice) % 2**63
        given = {
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "seed": seed,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        return {name: value for name, value in given.items() if value is not None}


B = TypeVar("B", bound=Body)
PARAMS_TYPE = TypeAdapter(SamplingParams)


def parse_body(body: type[B], raw: object) -> B:
    """The body of a request; raises ApiError that names the parameter."""
    if not isinstance(raw, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_type")
    kept = {}
    for name, value in raw.items():
        if name in body.model_fields or name in _aliases(body):
            kept[name] = value
        elif name in body.neutral:
            if not any(type(value) is type(off) and value == off for off in body.neutral[name]):
                raise unsupported(name, NOT_HERE)
        elif name not in WITHOUT_EFFECT:
            raise ApiError(
                400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
            )
    try:
        return body.model_validate(kept)
    except ValidationError as error:
        raise _refusal(error) from error


def sampling(params: dict[str, Any]) -> dict[str, Any]:
    """Fields of `SamplingParams` by name, of the right types; raises ApiError otherwise."""
    try:
        override(SamplingParams(), {name: None for name in params if name not in FIELDS})
        checked = PARAMS_TYPE.validate_python(params)
    except ValidationError as error:
        found = _refusal(error)
        found.param = f"params.{found.param}" if found.param else "params"
        raise found from error
    except OmniError as error:
        raise api_error(error, {name: f"params.{name}" for name in params}) from error
    return {name: getattr(checked, name) for name in params}


def _aliases(body: type[Body]) -> set[str]:
    return {field.alias for field in body.model_fields.values() if field.alias is not None}


def _refusal(error: ValidationError) -> ApiError:
    # The deepest one: of a union, the member that was meant.
    first = max(
        error.errors(include_url=False, include_context=False, include_input=False),
        key=lambda each: len(each["loc"]),
    )
    where = _path(first["loc"])
    if first["type"] == "missing":
        return ApiError(
            400,
            f"Missing required parameter: '{where}'.",
            param=where,
            code="missing_required_parameter",
        )
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"Unknown parameter: '{where}'.", param=where, code="unknown_parameter"
        )
    kind = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    return ApiError(400, f"Invalid '{where}': {first['msg']}.", param=where or None, code=kind)


def _path(steps: Sequence[int | str]) -> str:
    """Where a value lies, as OpenAI writes it: messages[0].content[1].text."""
    where = ""
    for number, step in enumerate(steps):
        if isinstance(step, int):
            where += f"[{step}]"
        elif where.endswith("]") and where.rpartition(".")[2].startswith("content["):
            # after the index of a part comes the name of its type
            where += "" if isinstance(steps[number - 1], int) else f".{step}"
        elif step.isidentifier() and step not in ("str", "list"):  # not the members of a union
            where += f".{step}" if where else step
    return where


# ---------------------------------------------------------------------------------------- native
class StreamBody(Body):
    """How often the events of a job show a picture that forms: every so many steps."""

    every: Annotated[int, Field(ge=1)] = 8


class JobBody(Body):
    """A task on a person's inputs.

    task: its name; None takes the one that the inputs belong to. want: the medium of the answer,
    where the inputs alone do not say it. image, audio, mask: data URIs or base64; a mask may also
    be "left,top,right,bottom" in pixels. params: fields of `SamplingParams`. max_tokens: length of
    a text or speech answer.
    """

    task: str | None = None
    want: Literal["text", "image", "speech"] | None = None
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    mask: str | None = None
    preset: str | None = None
    params: dict[str, Any] = {}
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: StreamBody = StreamBody()


class KnownText(Body):
    """Text that is known."""

    type: Literal["text"]
    text: str


class KnownImage(Body):
    """A picture; `mask` makes a hole in it."""

    type: Literal["image"]
    image: str
    mask: str | None = None


class KnownAudio(Body):
    """A recording; `gaps` are (start, stop) in seconds."""

    type: Literal["audio"]
    audio: str
    gaps: list[tuple[float, float]] | None = None


class BlankPart(Body):
    """`length` masked tokens of one kind."""

    type: Literal["blank"]
    kind: Literal["text", "image", "speech"]
    length: Annotated[int, Field(ge=1, le=4096)]


NativePart: TypeAlias = Annotated[
    KnownText | KnownImage | KnownAudio | BlankPart, Field(discriminator="type")
]


class NativeMessage(Body):
    """A turn, with its parts."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[NativePart], Field(min_length=1, max_length=32)]


class InfillBody(Body):
    """A conversation of which any part may be masked, wholly or in places.

    params: fields of `SamplingParams`.
    """

    messages: Annotated[list[NativeMessage], Field(min_length=1, max_length=32)]
    params: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    preset: str | None = None
