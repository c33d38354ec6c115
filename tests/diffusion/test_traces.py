"""The published code's stored decodings, replayed token for token under rules="upstream"."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, dream_name
from omni_diffusion.canvas import Canvas, FeatureSlot
from omni_diffusion.diffusion.confidence import Measure
from omni_diffusion.diffusion.guidance import join
from omni_diffusion.diffusion.sampler import Logits, SamplingParams, start, step

pytestmark = pytest.mark.slow  # replays every stored decoding; each rule has quick tests too

MASK, BEGIN_OF_SPEECH, VOCAB = 590, 592, 600
NOTHING = VOCAB  # an id of ours whose embedding is zero: upstream's padding
CONFIDENCES: dict[str, Measure] = {
    "maskgit_plus": "max_probability",
    "topk_margin": "margin",
    "entropy": "entropy",
    "entropy-penalty": "entropy",
}
TIE_GAP = 1e-5
# The step at which the first block is full but has steps left: upstream then takes whatever place
# torch.topk names among equals, here the lowest.
FORCED = {"boa_bs8_n24": 7, "boa_bs8_n25_tail_left_masked": 7}


class Trace:
    """One stored decoding, its settings in our words, and its replay so far."""

    def __init__(self, name: str, told: dict[str, Any], stored: dict[str, Tensor]) -> None:
        self.name, self.told = name, told
        self.stored_history = stored.get(f"{name}/history", torch.empty(0)).long()
        self.tied = told.get("min_topk_gap", 1) < TIE_GAP
        self.prompt = stored["prompt_ids"][0].long()
        self.uncond = stored[told["uncond"]].long() if "uncond" in told else None
        self.slots: list[FeatureSlot] = []
        if name.startswith("audio_inject"):
            places = stored["audio_indices"][1, 0]
            frames = stored["audio_encoder_out"][0, : len(places)]
            self.slots = [FeatureSlot(int(places[0]), frames)]
        self.state = start(self.canvas(), self.params(), MASK)
        self.history: list[Tensor] = []

    def canvas(self) -> Canvas:
        n, at = self.told["max_new_tokens"], len(self.prompt)
        ids = torch.cat([self.prompt, torch.full((n,), MASK)])
        allowed = torch.tensor([[0, VOCAB]]).expand(len(ids), 2)
        canvas = Canvas(ids, torch.arange(len(ids)) >= at, allowed, (at, at + n))
        begin = at + int(0.2 * n)
        return canvas.fill([begin], [BEGIN_OF_SPEECH]) if self.told.get("add_boa_token") else canvas

    def params(self) -> SamplingParams:
        told = self.told
        penalised = told["alg"] == "entropy-penalty"
        return SamplingParams(
            steps=told["steps"],
            confidence=CONFIDENCES[told["alg"]],
            top_p=told["top_p"],
            top_k=told.get("top_k", 50),
            repetition_penalty=told.get("repeat_penalty", 1.0) if penalised else 1.0,
            position_penalty=told.get("max_position_penalty", 1.0),
            guidance=told.get("cfg", 0.0),
            block_length=told.get("block_size"),
            constrain=False,
            rules="upstream",
        )

    def rows(self) -> list[Tensor]:
        """The canvas, and under guidance its unconditional twin, padded at the end."""
        ids = self.state.canvas.ids
        if self.uncond is None:
            return [ids]
        answer = ids[len(self.prompt) :]
        pad = torch.full((len(self.prompt) - len(self.uncond),), NOTHING)
        return [ids, torch.cat([self.uncond, answer, pad])]

    def logits(self, rows: Tensor) -> Tensor:
        """Rows' logits [1 or 2, L, V] -> those of the queried positions [m, V]."""
        queried = rows[:, self.state.query_mask]
        if len(rows) == 1:
            return queried[0]
        return join(queried[0], queried[1], self.params().guidance)


def replay(traces: list[Trace], dream: Dream) -> None:
    """Run traces of one length together, each at its own step, until all are done."""
    while running := [trace for trace in traces if not trace.state.done]:
        rows = [trace.rows() for trace in running]
        sizes = [len(own) for own in rows]
        firsts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        slots = [
            (first, slot)
            for first, trace in zip(firsts, running, strict=False)
            for slot in trace.slots
        ]
        logits = dream(torch.stack([row for own in rows for row in own]), slots=slots)
        answers = [
            trace.logits(own) for trace, own in zip(running, logits.split(sizes), strict=True)
        ]
        step([trace.state for trace in running], Logits.of(answers))
        for trace in running:
            trace.history.append(trace.state.canvas.ids[len(trace.prompt) :])


@pytest.fixture(scope="module")
def traces(parity_dir: Path) -> list[Trace]:
    folder = parity_dir / "backbone"
    config = DreamConfig.from_upstream(json.loads((folder / "tiny_config.json").read_text()))
    dream = Dream(config).eval().requires_grad_(False)
    weights = load_file(folder / "tiny_weights.safetensors")
    dream.load_state_dict({name: tensor for name, tensor in weights.items() if dream_name(name)})
    embeddings = dream.model.embed_tokens.weight
    widened = torch.cat([embeddings, torch.zeros(1, embeddings.shape[1])])
    dream.model.embed_tokens = nn.Embedding.from_pretrained(widened)
    told = json.loads((folder / "sampler_traces.json").read_text())
    stored = load_file(folder / "sampler_traces.safetensors")
    found = [
        Trace(name, own, stored)
        for name, own in told.items()
        if not name.endswith("_seed0") and "error" not in own
    ]
    for length in {trace.state.canvas.length for trace in found}:
        replay([trace for trace in found if trace.state.canvas.length == length], dream)
    return found


def first_difference(trace: Trace) -> str | None:
    """Where a replay leaves the stored decoding; None if nowhere."""
    want = trace.stored_history
    end = FORCED.get(trace.name, len(want))
    if not len(trace.history) == trace.told["n_forward"] == len(want):
        return f"{trace.name}: {len(trace.history)} forwards for {trace.told['n_forward']}"
    wrong = [i for i, ids in enumerate(trace.history[:end]) if not torch.equal(ids, want[i])]
    return f"{trace.name}: step {wrong[0]}" if wrong else None


@pytest.mark.slow
def test_stored_decodings_token_for_token(traces: list[Trace]) -> None:
    """All of them, but for those whose order hangs on a tie that is torch.topk's to break."""
    clear = [trace for trace in traces if not trace.tied]
    assert len(clear) >= 85
    assert [text for trace in clear if (text := first_difference(trace))] == []


def test_every_decoding_fills_the_stored_number_of_places(traces: list[Trace]) -> None:
    assert sum(trace.tied for trace in traces) == 4
    for trace in traces:
        left = [int((ids == MASK).sum()) for ids in trace.history]
        assert left == trace.told.get("masks_left_per_step", []), trace.name
