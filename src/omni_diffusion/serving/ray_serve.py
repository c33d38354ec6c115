"""The server on many machines, as a Ray Serve application: replicas, each with a model of its own.

    serve run omni_diffusion.serving.ray_serve:app replicas=2 model=/models/omni

Ray's proxy spreads the requests, replaces replicas that die or whose engine has stopped, and, with
`most_replicas`, adds replicas while requests wait. Jobs live in one process, and the page watches
jobs: replicas have neither.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp

from omni_diffusion.backbone.quantization import quantization
from omni_diffusion.errors import ConfigError
from omni_diffusion.io.optional import require
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.serving.app import create_app, open_service
from omni_diffusion.serving.limits import Limits

HEALTH_PERIOD, HEALTH_TIMEOUT = 5.0, 30.0  # seconds


class ReplicaOptions(BaseModel):
    """How replicas are made; the arguments of `serve run`.

    model: a folder that every machine has; None is the small model. name: of the model for clients.
    api_key, device, dtype, quantization, max_batch, codec_threads: as in `omni-diffusion serve`.
    replicas: at the start and at least. most_replicas: up to which more are added; None adds none.
    gpus, cpus: of one replica. queue, deadline, drain: see `Limits`; they are each replica's own.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    model: str | None = None
    name: str | None = None
    api_key: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    quantization: str | None = None
    max_batch: int = Field(8, ge=1)
    codec_threads: int = Field(2, ge=1)
    replicas: int = Field(1, ge=1)
    most_replicas: int | None = Field(None, ge=1)
    gpus: float = Field(0, ge=0)
    cpus: float = Field(1, ge=0)
    queue: int = Limits.queue
    deadline: float = Limits.deadline
    drain: float = Limits.drain

    @property
    def limits(self) -> Limits:
        """The limits of one replica."""
        return Limits(queue=self.queue, deadline=self.deadline, drain=self.drain)


def app(arguments: dict[str, Any]) -> Any:
    """The application of `serve run`; raises ConfigError for an argument that is none."""
    try:
        options = ReplicaOptions.model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise ConfigError(
            f"{field}: {first['msg']}",
            field=field,
            value=first["input"],
            fix=f"give some of {', '.join(ReplicaOptions.model_fields)}",
        ) from error
    return application(options)


def application(options: ReplicaOptions) -> Any:
    """The application of some options; raises MissingDependencyError without Ray Serve."""
    serve = require("ray.serve", "ray")

    @serve.ingress()
    class Replica:
        """One process with a model; Ray asks it for its health."""

        def __init__(self, options: ReplicaOptions) -> None:
            stored = options.quantization
            model = OmniModel.open(
                options.model,
                options.device,
                options.dtype,
                None if stored is None else quantization(stored),
            )
            self._key = options.api_key
            self._service = open_service(
                model,
                name=options.name,
                limits=options.limits,
                max_batch=options.max_batch,
                codec_threads=options.codec_threads,
            )

        def __serve_build_asgi_app__(self) -> ASGIApp:
            return create_app(self._service, key=self._key, jobs=False)

        def check_health(self) -> None:
            """Raise where the engine's thread has ended: Ray then replaces the replica."""
            if not self._service.worker.alive:
                raise RuntimeError("the engine's thread has ended")

    deployment = serve.deployment(Replica, name="omni-diffusion").options(**scale(options))
    return deployment.bind(options)


def scale(options: ReplicaOptions) -> dict[str, Any]:
    """The options of Ray's deployment.

    A replica takes what its batch and its queue hold: beyond it, it answers 429 itself. Replicas
    are added where more requests run than batches hold.
    """
    found: dict[str, Any] = {
        "max_ongoing_requests": options.max_batch + options.queue + 8,
        "graceful_shutdown_timeout_s": options.drain + 5,
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
        "ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus},
    }
    if options.most_replicas is None:
        return {**found, "num_replicas": options.replicas}
    if options.most_replicas < options.replicas:
        raise ConfigError(
            f"most_replicas is {options.most_replicas}, replicas {options.replicas}",
            field="most_replicas",
            value=options.most_replicas,
            fix="give replicas or more",
        )
    autoscaling = {
        "min_replicas": options.replicas,
        "initial_replicas": options.replicas,
        "max_replicas": options.most_replicas,
        "target_ongoing_requests": options.max_batch,
    }
    return {**found, "autoscaling_config": autoscaling}
