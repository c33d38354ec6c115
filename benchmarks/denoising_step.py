"""One denoising step, side by side: the published loop, a tuned eager loop, and the engine's path.

Hidden 512 x 8 layers, 176,264 ids, a prompt of 60 tokens and an answer of 260, greedy, random
weights in float32 and, of the engine's path, in bfloat16. All loops run in one process on the same
canvases, in turn, so that what else the machine does meets all of them; the least of the repeats
counts. Also measured: the small model's requests per second alone and in a batch.

    python benchmarks/denoising_step.py                 # benchmarks/results/denoising-step.json
    python benchmarks/denoising_step.py --tiny --out x  # seconds, to see that it runs
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_diffusion import (
    Engine,
    Image,
    Message,
    OmniModel,
    Picture,
    Request,
    Speech,
    Text,
    Waveform,
)
from omni_diffusion.backbone.attention import AttentionMask
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.demo.jobs import INPUTS
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine import runner
from omni_diffusion.engine.runner import GuidedCanvas

RESULT = Path(__file__).parent / "results" / "denoising-step.json"
SIZES = DreamConfig(
    vocab_size=176_264,
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=2048,
)
MASK, IMAGE = 151_666, (168_072, 176_264)
PROMPT, ANSWER = 60, 260
TOP_P, TOP_K, REPETITION, POSITION = 0.9, 50, 1.2, 2.0


@dataclass(frozen=True)
class Bench:
    """Sizes of the model, of the canvas, and how often what is measured."""

    config: DreamConfig
    mask: int
    image: tuple[int, int]
    prompt: int
    answer: int
    steps: int
    repeats: int


FULL = Bench(SIZES, MASK, IMAGE, PROMPT, ANSWER, steps=5, repeats=2)
TINY = Bench(
    replace(SIZES, vocab_size=3000, hidden_size=32, num_layers=2, intermediate_size=64, head_dim=8),
    mask=2000, image=(2500, 3000), prompt=8, answer=24, steps=3, repeats=1,
)  # fmt: skip


class Clock:
    """Processor seconds of this thread: what other programs do hardly counts."""

    def __init__(self) -> None:
        self.inside = 0.0

    def timed(self, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The call, whose time is added to `inside`."""

        def run(*args: Any, **options: Any) -> Tensor:
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self.inside += time.thread_time() - began

        return run


# ------------------------------------------------------------------------------ the published loop
def published(
    dream: Dream, ids: Tensor, first: int, mask: int, clock: Clock
) -> tuple[Tensor, Tensor]:
    """Tokens and confidences [m] of the masked positions, with all the work of the published code.

    An all-true mask in every layer, logits of all ids at all positions, a copy for the shift, a
    full sort, a loop over the distinct tokens, boolean indexing for the penalties, and a second
    softmax whose result nobody reads.
    """

    def forward() -> Tensor:
        length = ids.shape[1]
        everything = torch.ones(1, 1, length, length, dtype=torch.bool)
        positions = torch.arange(length)[None]
        return dream.head(dream.model(dream.embed(ids), positions, AttentionMask.of(everything)))

    logits = clock.timed(forward)()
    logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    masked = ids == mask
    rows = logits[masked]
    ordered, order = rows.sort(descending=True)
    beyond = ordered.softmax(-1).cumsum(-1) > TOP_P
    beyond[:, 1:] = beyond[:, :-1].clone()
    beyond[:, 0] = False
    dropped = torch.zeros_like(rows, dtype=torch.bool).scatter_(-1, order, beyond)
    rows = rows.masked_fill(dropped, torch.finfo(rows.dtype).min)
    rows = rows.masked_fill(rows < rows.topk(TOP_K)[0][:, -1:], torch.finfo(rows.dtype).min)
    for token in ids[0, first:].unique().tolist():
        if token not in (0, mask):
            column = rows[:, token]
            rows[:, token] = torch.where(column < 0, column * REPETITION, column / REPETITION)
    if len(rows) > 100:
        ramp = 1 + (POSITION - 1) * (torch.arange(len(rows)) - 100).clamp(min=0) / (len(rows) - 100)
        factor = ramp[:, None].repeat(1, rows.shape[1])
        positive = rows > 0
        rows[positive] = rows[positive] / factor[positive]
        rows[~positive] = rows[~positive] * factor[~positive]
    p = rows.softmax(-1)
    _, tokens = p.max(-1)
    confidences = (p * torch.log(p + 1e-10)).sum(-1)
    logits.softmax(-1).max(-1)  # kept for debugging, read by nobody
    return tokens, confidences


# ------------------------------------------------------------------------------ a tuned eager loop
def tuned(dream: Dream, ids: Tensor, first: int, mask: int, clock: Clock) -> tuple[Tensor, Tensor]:
    """The same rules as a careful user would write them: the head on masked positions, top-k before
    anything that touches the whole vocabulary, penalties without a loop."""
    masked = ids == mask
    rows = clock.timed(dream.forward)(ids, logits_at=masked)
    values, candidates = rows.topk(TOP_K)
    p = (values - rows.logsumexp(-1, keepdim=True)).exp()
    values = values.masked_fill(p.cumsum(-1) - p > TOP_P, torch.finfo(rows.dtype).min)
    known = ids[0, first:]
    written = torch.zeros(rows.shape[1], dtype=torch.bool)
    written[known[(known != mask) & (known != 0)]] = True
    lowered = torch.where(values < 0, values * REPETITION, values / REPETITION)
    values = torch.where(written[candidates], lowered, values)
    if len(rows) > 100:
        ramp = 1 + (POSITION - 1) * (torch.arange(len(rows)) - 100).clamp(min=0) / (len(rows) - 100)
        values = torch.where(values < 0, values * ramp[:, None], values / ramp[:, None])
    p = values.softmax(-1)
    best = values.argmax(-1, keepdim=True)
    return candidates.gather(1, best)[:, 0], (p * torch.log(p + 1e-10)).sum(-1)


# ------------------------------------------------------------------------------------- comparison
FILTERS = {"top_p": TOP_P, "top_k": TOP_K}
OURS: dict[str, dict[str, Any]] = {
    "ours, upstream rules": {"rules": "upstream", "constrain": False, **FILTERS},
    "ours, paper's rules, full vocabulary": {"constrain": False},
    "ours, paper's rules, constrained": {},
}
HALF = ", bfloat16"  # ends the names of loops that run in it
OURS |= {name + HALF: options for name, options in OURS.items()}
LOOPS = ("published", "tuned eager", *OURS)


def ours(dream: Dream, guided: GuidedCanvas, clock: Clock) -> None:
    """One step of the engine's path."""
    logits = clock.timed(runner.logits)(dream, [guided])
    runner.commit([guided], replace(logits, compute=clock.timed(logits.compute)))


def start(canvas: Canvas, mask: int, **options: Any) -> GuidedCanvas:
    """What the engine makes of a canvas, once for all of its steps."""
    params = SamplingParams(repetition_penalty=REPETITION, position_penalty=POSITION, **options)
    return GuidedCanvas(canvas, None, params, mask)


def canvases(bench: Bench) -> list[Canvas]:
    """One answer at several moments: evenly from all masked to few."""
    generator = torch.Generator().manual_seed(0)
    low, high = bench.image
    length = bench.prompt + bench.answer
    prompt = torch.randint(0, 1000, (bench.prompt,), generator=generator)
    answer = torch.randint(low, high, (bench.answer,), generator=generator)
    allowed = torch.tensor([[low, high]]).expand(length, 2).clone()
    found = []
    for step in range(bench.steps):
        masked = round(bench.answer * (1 - step / bench.steps))
        ids = torch.cat([prompt, answer])
        blank = torch.zeros(length, dtype=torch.bool)
        order = torch.randperm(bench.answer, generator=generator)[:masked] + bench.prompt
        ids[order], blank[order] = bench.mask, True
        found.append(Canvas(ids, blank, allowed, (bench.prompt, length)))
    return found


def one_step(bench: Bench, name: str, dream: Dream, canvas: Canvas) -> tuple[float, float]:
    """Seconds of one step of a loop, and of the forward pass in it."""
    clock = Clock()
    guided = start(canvas, bench.mask, **OURS.get(name, {}))
    began = time.thread_time()
    with torch.no_grad():
        if name in OURS:
            ours(dream, guided, clock)
        else:
            loop = published if name == "published" else tuned
            loop(dream, canvas.ids[None], bench.prompt, bench.mask, clock)
    return time.thread_time() - began, clock.inside


def compare(bench: Bench) -> dict[str, Any]:
    """Seconds of a step of every loop, mean over the moments of an answer."""
    torch.manual_seed(0)
    dream = Dream(bench.config).eval()
    half = copy.deepcopy(dream).to(torch.bfloat16)
    best: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    rates = []
    for canvas in canvases(bench):
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
        for _ in range(bench.repeats):
            for name in LOOPS:
                weights = half if name.endswith(HALF) else dream
                seen[name].append(one_step(bench, name, weights, canvas))
            rates.append(product_rate())
        for name in LOOPS:
            best[name].append(min(seen[name]))
    seconds = {name: sum(s for s, _ in best[name]) / bench.steps for name in LOOPS}
    forward = {name: sum(f for _, f in best[name]) / bench.steps for name in LOOPS}
    rows: dict[str, Any] = {}
    for name in LOOPS:
        rows[name] = {
            "seconds_per_step": round(seconds[name], 4),
            "forward": round(forward[name], 4),
            "forward_share": round(forward[name] / seconds[name], 3),
            "times_published": round(seconds["published"] / seconds[name], 2),
            "times_tuned": round(seconds["tuned eager"] / seconds[name], 2),
        }
    work = sum(flops(bench, canvas) for canvas in canvases(bench)) / bench.steps
    rate = work / forward["ours, paper's rules, constrained"]
    rows["products"] = {
        "measured_gflops": round(max(rates) / 1e9, 1),
        "of_the_constrained_forward_gflops": round(rate / 1e9, 1),
        "share": round(rate / max(rates), 3),
    }
    return rows


def product_rate() -> float:
    """Multiplications and additions a second of a product of two matrices, 1024 wide."""
    x, w = torch.randn(1024, 1024), torch.randn(1024, 1024)
    took = []
    for _ in range(3):
        began = time.thread_time()
        torch.nn.functional.linear(x, w)
        took.append(time.thread_time() - began)
    return 2 * 1024**3 / min(took)


def flops(bench: Bench, canvas: Canvas) -> int:
    """Of the constrained forward pass: all positions, in the last block the masked ones."""
    config, length, masked = bench.config, canvas.length, canvas.blanks
    width, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden = config.hidden_size
    queries = (
        2 * hidden * width * 2 + 2 * 3 * hidden * config.intermediate_size + 4 * length * width
    )
    both = 2 * hidden * keys * 2
    blocks = (config.num_layers - 1) * length * (queries + both) + masked * queries + length * both
    low, high = bench.image
    return blocks + 2 * masked * hidden * (high - low)


# ------------------------------------------------------------------------------- the small model
def short_requests(count: int) -> list[Request]:
    """ASR, VQA and chat in turn, with the demo's inputs."""
    picture, sound = Picture.read(INPUTS / "penguin-cow.png"), Waveform.read(INPUTS / "dog.ogg")
    kinds = [
        ("asr", (Speech(sound),)),
        ("vqa", (Text("what is to the right of the penguin?"), Image(picture))),
        ("chat", (Text("what is a cake?"),)),
    ]
    return [
        Request(task, (Message("user", parts),), {"seed": number})
        for number, (task, parts) in zip(range(count), kinds * count, strict=False)
    ]


def throughput(model: OmniModel, count: int, repeats: int) -> dict[str, Any]:
    """Requests per second: one at a time, and together; processor time beside wall time."""
    asked = short_requests(count)
    answers: dict[int, list[list[int]]] = {}
    took: dict[int, list[tuple[float, float]]] = {1: [], count: []}
    for _ in range(repeats):
        for batch in took:
            wall, processor = time.perf_counter(), time.process_time()
            results = Engine(model, max_batch=batch).run(asked)
            took[batch].append((time.perf_counter() - wall, time.process_time() - processor))
            answers[batch] = [result.canvas.ids.tolist() for result in results if result.canvas]
    (alone, alone_cpu), (together, together_cpu) = (
        tuple(min(column) for column in zip(*took[batch], strict=True)) for batch in took
    )
    return {
        "requests": count,
        "alone_per_second": round(count / alone, 2),
        "together_per_second": round(count / together, 2),
        "times": round(alone / together, 2),
        "times_by_processor_time": round(alone_cpu / together_cpu, 2),
        "equal_answers": answers[1] == answers[count],
    }


def processor() -> dict[str, Any]:
    """The name of the processor, and which of the flags that matter here it has."""
    pairs = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if line)
    about = {name.strip(): value.strip() for name, value in pairs}
    known = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "name": about.get("model name", "unknown"),
        "cores": os.cpu_count(),
        "flags": [flag for flag in known if flag in about.get("flags", "").split()],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--moments", type=int, help="moments of an answer (default: 5)")
    parser.add_argument("--repeats", type=int, help="steps of a loop at each (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    bench = TINY if given.tiny else FULL
    bench = replace(
        bench, steps=given.moments or bench.steps, repeats=given.repeats or bench.repeats
    )
    result: dict[str, Any] = {
        "processor": processor(),
        "threads": given.threads,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "moments": bench.steps,
        "repeats": bench.repeats,
        "step": compare(bench),
    }
    print(json.dumps(result), flush=True)
    model = OmniModel.open()
    result["throughput"] = throughput(model, 3 if given.tiny else 16, bench.repeats)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
