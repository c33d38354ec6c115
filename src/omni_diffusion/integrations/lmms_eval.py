"""The model in lmms-eval: `lmms-eval --model omni_diffusion --tasks mme,pope,seedbench_2_plus`.

lmms-eval finds `manifests` by the entry point `lmms_eval.models`. It needs an environment of its
own; only it imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image as PilImage

from omni_diffusion.conversation import Image, Message, Part, Speech, Text, text_of
from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import TaskError
from omni_diffusion.evaluation.likelihood import answer_canvas, sequence_bound
from omni_diffusion.media import Picture, Waveform
from omni_diffusion.models.omni import OmniModel


def manifests() -> ModelManifest:
    """What lmms-eval registers."""
    path = f"{OmniDiffusionLmms.__module__}.{OmniDiffusionLmms.__qualname__}"
    return ModelManifest(model_id="omni_diffusion", simple_class_path=path)


class OmniDiffusionLmms(lmms):
    """Answers lmms-eval's requests; its arguments come from `--model_args`.

    pretrained: the folder of a model of our layout; None = the small one that ships. max_tokens:
    the most tokens of an answer, each of which is a forward pass, whatever a task allows. steps:
    denoising steps; None = one a token. samples: masks drawn for a log likelihood.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        device: str = "cpu",
        batch_size: int | str = 8,
        max_tokens: int | str = 64,
        steps: int | str | None = None,
        samples: int | str = 32,
        **_: Any,
    ) -> None:
        super().__init__()
        self.model = OmniModel.open(None if pretrained is None else Path(pretrained), device)
        self.engine = Engine(self.model, max_batch=int(batch_size))
        self.max_tokens, self.samples = int(max_tokens), int(samples)
        self.overrides: dict[str, Any] = {} if steps is None else {"steps": int(steps)}

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The texts of the answers, cut at the first stop; raises the error of a request."""
        asked = [request.args for request in requests]
        results = self.engine.run([self._request(*args) for args in asked])
        texts = []
        for args, result in zip(asked, results, strict=True):
            if result.error is not None:
                raise result.error
            texts.append(_before_stop(text_of(result.parts), args[1].get("until")))
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """The bound on -log p of each continuation, nats of a token; see `evaluation.likelihood`.

        A loss in spite of the name: lmms-eval's own models return the mean loss of the
        continuation's tokens, and its multiple choice takes the option with the lowest. The second
        value, whether greedy decoding would give the continuation, is not known from a bound and
        always False.
        """
        found = []
        for request in requests:
            context, target, visuals, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            text = target if isinstance(target, str) else target(doc)
            parts = _media(visuals(doc))
            if len(parts) > 1 or any(isinstance(part, Speech) for part in parts):
                raise TaskError("log likelihoods are of text about at most one picture")
            picture = next((part.picture for part in parts if isinstance(part, Image)), None)
            inputs = Inputs(context, picture)
            canvas = answer_canvas(self.model, "vqa" if parts else "chat", inputs, text.strip())
            bound = sequence_bound(self.model, canvas, samples=self.samples)
            found.append((bound.total.per_token, False))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported, as by lmms-eval's other diffusion models."""
        raise NotImplementedError("omni_diffusion answers one round")

    def _request(
        self,
        context: str,
        options: Mapping[str, Any],
        visuals: Any,
        doc_id: Any,
        task: str,
        split: str,
    ) -> Request:
        """A question about one picture is `vqa`; any other is a `chat` with its media in order."""
        media = _media(visuals(self.task_dict[task][split][doc_id]))
        length = min(int(options.get("max_new_tokens", self.max_tokens)), self.max_tokens)
        if len(media) == 1 and isinstance(media[0], Image):
            inputs = Inputs(context, media[0].picture)
            return ask("vqa", inputs, max_tokens=length, **self.overrides)
        text = (Text(f"{context}\n" if media else context),)
        conversation = (Message("user", (*text, *media)),)
        return Request("chat", conversation, self.overrides or None, max_tokens=length)


def _media(visuals: Sequence[Any] | None) -> tuple[Part, ...]:
    """Pillow images and sounds, which lmms-eval holds as {"array", "sampling_rate"}."""
    parts = list[Part]()
    for visual in visuals or ():
        if isinstance(visual, PilImage.Image):
            parts.append(Image(Picture.from_pil(visual)))
        elif isinstance(visual, Mapping) and {"array", "sampling_rate"} <= set(visual):
            samples = torch.from_numpy(np.atleast_2d(np.asarray(visual["array"], np.float32)))
            parts.append(Speech(Waveform(samples, int(visual["sampling_rate"]))))
        else:
            raise TaskError(
                f"a {type(visual).__name__} cannot be shown to the model",
                field="visuals",
                fix="give pictures or sounds",
            )
    return tuple(parts)


def _before_stop(text: str, stops: str | Sequence[str] | None) -> str:
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop else text
    return text.strip()
