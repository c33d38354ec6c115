"""The parts of `gpu`: each measures one subject and notes its figures as it goes.

    python -m benchmarks.gpu_parts NAME --notes FILE [--device cuda] [--tiny]

Weights are random, but for the small model's. Times are medians, in milliseconds where the name
ends in _ms; the first passes, which build kernels, are not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.mini_training import train_small_model
from scripts import random_checkpoint
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.canvas import Canvas
from omni_diffusion.codecs.glm_voice.codec import GlmVoice, GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.diffusion import sampler
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.diffusion.sampler import Logits
from omni_diffusion.engine import runner
from omni_diffusion.engine.ask import Inputs, ask
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.prepare import prepare
from omni_diffusion.engine.request import Request
from omni_diffusion.engine.runner import GuidedCanvas
from omni_diffusion.media import Picture
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.models.sizes import Work, forward_flops, matmul_peak
from omni_diffusion.training.throughput import training_flops
from omni_diffusion.vocab import Vocabulary

BF16 = torch.bfloat16
TINY_VOCABULARY = Vocabulary(text_size=300, speech_size=64, image_size=128)
TINY = DreamConfig(
    vocab_size=TINY_VOCABULARY.size,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    intermediate_size=128,
    speech_dim=16,
)
TINY_SCALE = 0.02
PROMPT = 60
PICTURE, SPEECH = 260, (50, 130)  # tokens of an answer
LORA_RANK = 16
ROW = 3072  # tokens of a training row


class Notes:
    """The figures of a part, written to its file with every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}

    def __call__(self, **values: Any) -> None:
        self.values |= {name: rounded(value) for name, value in values.items()}
        temporary = self.path.with_suffix(".partial")
        temporary.write_text(json.dumps(self.values))
        temporary.replace(self.path)

    def attempt(self, name: str, measure: Callable[[], Any]) -> None:
        """Note what `measure` returns, or why it failed."""
        try:
            self(**{name: measure()})
        except Exception as error:
            self(**{name: f"failed: {str(error).splitlines()[0][:200] or type(error).__name__}"})


@dataclass(frozen=True)
class Setup:
    """What every part gets. ends: time.monotonic() by which it should be done."""

    notes: Notes
    device: torch.device
    tiny: bool
    ends: float
    keep: Path | None

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], runs: int = 3, warm: int = 1) -> float:
        """The median seconds of `work`."""
        times = []
        for _ in range(warm + runs):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return median(times[warm:])

    def peak_gb(self) -> float | None:
        """The most device memory since the last call; None on a CPU."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self.device) / 1e9
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the backbone."""
        return TINY_VOCABULARY if self.tiny else Vocabulary.official()

    @property
    def dtype(self) -> torch.dtype:
        """That of the backbone; many CPUs are slow in bfloat16."""
        return torch.float32 if self.device.type == "cpu" else BF16

    def backbone(self) -> Dream:
        """The 7B shape with random weights in bfloat16."""
        torch.manual_seed(0)
        with self.device, default_dtype(self.dtype):
            return Dream(TINY if self.tiny else DreamConfig.dream_7b()).eval()


def rounded(value: Any) -> Any:
    """Numbers with four digits, inside of lists and dicts too."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {str(name): rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# ------------------------------------------------------------------------------------------ parts
def machine(setup: Setup) -> None:
    """Names, the rate of matrix products and of copies."""
    notes, device = setup.notes, setup.device
    notes(torch=torch.__version__, cpus=os.cpu_count())
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        notes(name=gpu.name, memory_gb=gpu.total_memory / 1e9, cuda=torch.version.cuda)
    side = 256 if setup.tiny else None
    for dtype in (BF16, torch.float32):
        rate = matmul_peak(device, dtype, side=side) / 1e12
        notes(**{f"{str(dtype).removeprefix('torch.')}_tflops": rate})
    notes(copy_tb_per_second=copy_rate(setup) / 1e12)


def copy_rate(setup: Setup) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.zeros(2**20 if setup.tiny else 2**30, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    return 2 * len(source) / setup.seconds(lambda: target.copy_(source), runs=7)


def backbone(setup: Setup) -> None:
    """Milliseconds of a denoising step of each canvas, against the machine's limit."""
    start = time.perf_counter()
    model = setup.backbone()
    setup.wait()
    setup.notes(make_s=time.perf_counter() - start, weights_gb=setup.peak_gb())
    side = 256 if setup.tiny else None
    limits = (matmul_peak(setup.device, setup.dtype, side=side), copy_rate(setup))
    cases = {f"picture_b{b}{'_cfg' if g else ''}": (PICTURE, b, g) for b in (1, 16) for g in (0, 1)}
    cases |= {f"speech{n}_b{b}": (n, b, 0) for n in SPEECH for b in (1, 16)}
    for name, (answer, batch, guidance) in cases.items():
        if setup.tiny:
            batch = min(batch, 2)
        least = limit_ms(model.config, answer, batch * (1 + guidance), *limits)
        setup.notes.attempt(
            name,
            lambda a=answer, b=batch, g=guidance, ms=least: (
                step_times(setup, model, a, b, g) | {"limit_ms": ms}
            ),
        )
    for steps in (10, 50, 256):
        count = min(steps, 3) if setup.tiny else steps
        setup.notes.attempt(f"picture_{steps}_steps_s", lambda n=count: whole(setup, model, n))
    setup.notes(peak_gb=setup.peak_gb())


def step_times(
    setup: Setup, model: Dream, answer: int, batch: int, guidance: float
) -> dict[str, float]:
    """Milliseconds of a step, and the part that the blocks take (the rest: head and sampler)."""
    params = SamplingParams(guidance=guidance, steps=64, repetition_penalty=1.2)
    words = setup.vocabulary
    running = [guided(answer, words, params, seed) for seed in range(batch)]
    rows = []
    for _ in range(3 if setup.tiny else 12):
        start = time.perf_counter()
        logits = runner.logits(model, running)
        setup.wait()
        middle = time.perf_counter()
        runner.commit(running, logits)
        setup.wait()
        rows.append((time.perf_counter() - start, middle - start))
    rows = rows[len(rows) // 4 :]
    step, forward = (median(column) for column in zip(*rows, strict=True))
    return {"step_ms": 1e3 * step, "blocks_share": forward / step}


def guided(answer: int, words: Vocabulary, params: SamplingParams, seed: int = 0) -> GuidedCanvas:
    """A canvas of random text with a masked picture, or masked speech."""
    kind = words.image if answer == PICTURE else words.speech
    generator = torch.Generator().manual_seed(seed)

    def canvas() -> Canvas:
        prompt = torch.randint(words.text_size, (PROMPT,), generator=generator)
        ids = torch.cat([prompt, torch.full((answer,), words.mask)])
        free, taken = words.range("any"), (kind.start, kind.stop)
        allowed = torch.tensor([free] * PROMPT + [taken] * answer)
        return Canvas(ids, ids == words.mask, allowed, (PROMPT, PROMPT + answer))

    return GuidedCanvas(canvas(), canvas() if params.guidance else None, params, words.mask)


def limit_ms(
    config: DreamConfig, answer: int, rows: int, flops: float, bytes_per_second: float
) -> float:
    """The least milliseconds of a step: its products, or reading the weights once."""
    length = PROMPT + answer
    with torch.device("meta"):
        size = sum(p.numel() for p in Dream(config).model.layers.parameters()) * BF16.itemsize
    work = Work(rows * length, length, 0)
    return 1e3 * max(forward_flops(config, work) / flops, size / (bytes_per_second / 2))


def whole(setup: Setup, model: Dream, steps: int) -> float:
    """Seconds of a whole picture, without its decoding."""
    words = setup.vocabulary
    running = [guided(PICTURE, words, SamplingParams(steps=steps))]

    def denoise() -> None:
        while not running[0].state.done:
            runner.commit(running, runner.logits(model, running))

    return setup.seconds(denoise, runs=1, warm=0)


def formats(setup: Setup) -> None:
    """The same forward pass captured as a graph, compiled, and with smaller weights."""
    model, notes = setup.backbone(), setup.notes
    shapes = {"picture": PROMPT + PICTURE, "speech": PROMPT + SPEECH[0]}
    if setup.tiny:
        shapes = {"picture": 16}
    ids = {n: torch.randint(9, (1, length), device=setup.device) for n, length in shapes.items()}
    with torch.no_grad():
        for name, one in ids.items():
            notes(**{f"eager_{name}_ms": forward_ms(setup, model, one)})
            notes.attempt(f"graph_{name}_ms", lambda i=one: graph_ms(setup, model, i))
        for name, one in ids.items():
            notes.attempt(f"compiled_{name}", lambda i=one: compiled(setup, model, i))
        for how, replace_layers in (("fp8", use_fp8), ("int8", use_int8), ("int4", use_int4)):
            small = None
            try:
                small = setup.backbone()
                replace_layers(small)
            except Exception as error:
                notes(**{how: f"failed: {str(error).splitlines()[0][:200]}"})
                continue
            for name, one in ids.items():
                notes.attempt(f"{how}_{name}_ms", lambda s=small, i=one: forward_ms(setup, s, i))
            notes(**{f"{how}_peak_gb": setup.peak_gb()})
            del small


def forward_ms(setup: Setup, model: Dream, ids: Tensor) -> float:
    return 1e3 * setup.seconds(lambda: model.hidden(ids), runs=9, warm=3)


def graph_ms(setup: Setup, model: Dream, ids: Tensor) -> float | str:
    """Milliseconds of a replayed CUDA graph of the blocks."""
    if setup.device.type != "cuda":
        return "needs cuda"
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model.hidden(ids)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.hidden(ids)
    return 1e3 * setup.seconds(graph.replay, runs=9)


def compiled(setup: Setup, model: Dream, ids: Tensor) -> dict[str, float]:
    """Seconds until the first answer of the compiled blocks, and milliseconds afterwards."""
    backend = "eager" if setup.tiny else "inductor"  # a laptop may lack a compiler
    blocks = torch.compile(model.model, backend=backend)
    x, positions = model.embed(ids), torch.arange(ids.shape[1], device=ids.device)[None]
    first = setup.seconds(lambda: blocks(x, positions), runs=1, warm=0)
    steady = setup.seconds(lambda: blocks(x, positions), runs=9, warm=2)
    torch._dynamo.reset()
    return {"first_s": first, "ms": 1e3 * steady}


class Fp8Linear(nn.Module):
    """A linear layer with weights and inputs in 8-bit floats, a scale for each row of both."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.scale = fp8_rows(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        flat, scale = fp8_rows(x.reshape(-1, x.shape[-1]))
        out = torch._scaled_mm(
            flat, self.weight.T, scale_a=scale, scale_b=self.scale.T, out_dtype=x.dtype
        )
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, d] in float8_e4m3fn and their scales [n, 1]."""
    scale = x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn), scale


def use_fp8(model: Dream) -> None:
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, Fp8Linear(child))


def use_int8(model: Dream) -> None:
    from omni_diffusion.backbone.quantization import quantize

    quantize(model, "int8", model.model.embed_tokens.weight.device)


def use_int4(model: Dream) -> None:
    from omni_diffusion.backbone.quantization import quantize

    quantize(model, "int4", model.model.embed_tokens.weight.device)


def speech(setup: Setup) -> None:
    """Real-time factors of flow decoder and vocoder at full size, and the time to first sound."""
    torch.manual_seed(0)
    voice = GlmVoiceConfig.official()
    sizes = random_checkpoint.reduced(TINY_SCALE) if setup.tiny else None
    flow_config, vocoder = voice.flow, voice.vocoder
    if sizes is not None:
        flow_config, vocoder = sizes.codecs.flow, sizes.codecs.vocoder
    assert isinstance(vocoder, HiFTConfig)
    with setup.device:
        flow, hift = Flow(flow_config).eval(), HiFT(vocoder).eval()
        tokenizer = SpeechTokenizer(replace(voice.tokenizer, layers=1, d_model=20, ffn=20)).eval()
    codec = GlmVoice(tokenizer, flow, hift)
    length = 25 if setup.tiny else 125
    spoken = length / flow_config.code_rate
    for batch in (1, 2 if setup.tiny else 8):
        codes = torch.randint(flow_config.vocab_size, (batch, length), device=setup.device)
        for precision in ("float32",) if setup.tiny else ("float32", "bfloat16"):
            flow.config = replace(flow_config, precision=precision)
            for steps in (10, 5):

                def draw(codes: Tensor = codes, steps: int = steps) -> None:
                    mels = flow.sample(codes, steps=steps)
                    for mel in mels:
                        hift.decode(mel)

                name = f"b{batch}_{steps}_steps_{precision}"
                setup.notes.attempt(
                    f"{name}_rtf", lambda d=draw, b=batch: setup.seconds(d, 2) / (b * spoken)
                )
    ids = torch.randint(flow_config.vocab_size, (length,), device=setup.device)
    setup.notes.attempt("first_sound_s", lambda: first_sound(setup, codec, ids))


def first_sound(setup: Setup, codec: GlmVoice, ids: Tensor) -> float:
    """Seconds until the stream's first samples, when codes come in blocks of ten."""

    def until() -> None:
        for waveform in codec.decode_stream(torch.split(ids, 10), steps=5):
            if waveform.samples.numel():
                return

    return setup.seconds(until, runs=3)


def parity(setup: Setup) -> None:
    """Tokens of the engine on the device against a plain loop, and against the CPU's."""
    requests = requests_of_the_small_model(2 if setup.tiny else 16)
    device = setup.device
    for dtype in (torch.float32,) if setup.tiny else (torch.float32, BF16):
        name = str(dtype).removeprefix("torch.")
        model = OmniModel.open(device=device, dtype=dtype)
        fast = [result.canvas for result in Engine(model).run(requests)]
        plain = [plain_loop(model, request) for request in requests]
        home = OmniModel.open(dtype=dtype)
        cpu = [result.canvas for result in Engine(home).run(requests)]
        setup.notes(
            **{
                f"{name}_engine_equals_plain_loop": agreement(fast, plain),
                f"{name}_device_equals_cpu": agreement(fast, cpu),
            }
        )


def requests_of_the_small_model(count: int) -> list[Request]:
    """Pictures, questions and speech, with and without guidance."""
    picture = Picture(torch.full((64, 64, 3), 200, dtype=torch.uint8))
    kinds: list[tuple[str, Inputs]] = [
        ("t2i", Inputs("a dog on a yellow background")),
        ("vqa", Inputs("what color is the background?", picture)),
        ("tts", Inputs("there are two cats")),
        ("caption", Inputs(image=picture)),
    ]
    return [ask(*kinds[i % 4], steps=8, seed=i) for i in range(count)]


@torch.no_grad()
def plain_loop(model: OmniModel, request: Request) -> Canvas:
    """One request, one canvas a pass, the whole vocabulary at every position."""
    prepared = prepare(request, model)
    mask_id = model.vocabulary.mask
    state = sampler.start(prepared.canvas, prepared.params, mask_id)
    uncond = prepared.uncond
    while not state.done:
        asked = state.query_mask
        logits = model.backbone(state.canvas.ids[None].to(model.device))[0][asked]
        if uncond is not None:
            shift = uncond.answer[0] - state.canvas.answer[0]
            other = model.backbone(uncond.ids[None].to(model.device))[0]
            free = other[asked.nonzero().flatten() + shift]
            logits = free + (prepared.params.guidance + 1) * (logits - free)
        [commit] = sampler.step([state], Logits.of([logits]))
        assert commit is not None
        if uncond is not None:
            uncond = uncond.fill(commit.positions + shift, commit.tokens)
    return state.canvas


def agreement(left: list[Canvas | None], right: list[Canvas | None]) -> float:
    """The fraction of tokens of the answers that are equal."""
    equal = total = 0
    for a, b in zip(left, right, strict=True):
        if a is None or b is None:
            raise ValueError("a request failed")
        span = slice(*a.answer)
        equal += int((a.ids[span] == b.ids[span]).sum())
        total += a.answer[1] - a.answer[0]
    return equal / total


def load(setup: Setup) -> None:
    """Seconds and memory of writing, and of opening, the published layout at full size."""
    import tempfile

    sizes = random_checkpoint.reduced(TINY_SCALE if setup.tiny else 1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "published")
        start = time.perf_counter()
        size = random_checkpoint.write(root, sizes)
        setup.notes(write_s=time.perf_counter() - start, backbone_gb=size / 1e9)
        start = time.perf_counter()
        model = OmniModel.from_pretrained(
            root / random_checkpoint.OMNI,
            codec_sources=random_checkpoint.sources(root, sizes),
            device=setup.device,
        )
        setup.wait()
        setup.notes(open_s=time.perf_counter() - start, device_gb=setup.peak_gb())
        for task, inputs in (("t2i", Inputs("a dog")), ("tts", Inputs("it is a dog"))):
            request = ask(task, inputs, steps=2 if setup.tiny else 10)
            (result,) = Engine(model).run([request])
            answer = result.seconds if result.error is None else f"failed: {result.error}"
            setup.notes(**{f"{task}_10_steps_s": answer})


def training_step(setup: Setup) -> None:
    """Tokens and FLOPs a second of a training step: the 7B shape with LoRA, and the small model."""
    setup.notes.attempt("lora_7b", lambda: lora_step(setup))
    setup.notes.attempt("small", lambda: small_step(setup))


def lora_step(setup: Setup) -> dict[str, float | None]:
    model = setup.backbone().train()
    model.requires_grad_(False)
    model.checkpointing(True)
    length = 48 if setup.tiny else ROW
    return optimizer_step(setup, model, add_factors(model), 1, length, frozen=True)


def small_step(setup: Setup) -> dict[str, float | None]:
    with setup.device:
        model = Dream(DreamConfig.mini(setup.vocabulary.size if setup.tiny else 2760)).train()
    rows, length = (2, 32) if setup.tiny else (48, 192)
    return optimizer_step(setup, model, list(model.parameters()), rows, length)


def optimizer_step(
    setup: Setup,
    model: Dream,
    trained: list[nn.Parameter],
    rows: int,
    length: int,
    *,
    frozen: bool = False,
) -> dict[str, float | None]:
    """Rates of forward, backward and AdamW on rows of random ids, half of them masked."""
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(model.config.vocab_size, (rows, length), device=setup.device)
    masked = torch.rand(rows, length, device=setup.device) < 0.5

    def step() -> None:
        with torch.autocast(setup.device.type, BF16, enabled=not setup.tiny):
            logits = model(ids, logits_at=masked)
        F.cross_entropy(logits.float(), ids[masked]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = setup.seconds(step, runs=2 if setup.tiny else 5, warm=1 if setup.tiny else 2)
    work = Work(rows * length, length, int(masked.sum()))
    checkpointed = model.model.checkpointing
    flops = training_flops(model.config, work, gradient_checkpointing=checkpointed, frozen=frozen)
    return {
        "tokens_per_second": rows * length / seconds,
        "tflops": flops / seconds / 1e12,
        "peak_gb": setup.peak_gb(),
    }


def add_factors(model: Dream) -> list[nn.Parameter]:
    """LoRA factors at every linear layer of the blocks, without peft; returns them."""
    made: list[nn.Parameter] = []

    def attach(linear: nn.Linear) -> None:
        down = nn.Parameter(torch.randn(LORA_RANK, linear.in_features, device=linear.weight.device))
        up = nn.Parameter(torch.zeros(linear.out_features, LORA_RANK, device=linear.weight.device))
        made.extend((down, up))
        linear.register_forward_hook(
            lambda _, inputs, out: out + F.linear(F.linear(inputs[0], down), up).to(out.dtype)
        )

    for layer in model.model.layers.modules():
        if isinstance(layer, nn.Linear):
            attach(layer)
    return made


def train_small(setup: Setup) -> None:
    """Train a larger small model on the shipped codecs for the time that is left."""
    train_small_model(
        setup.device,
        seconds=setup.ends - time.monotonic(),
        tiny=setup.tiny,
        folder=setup.keep,
        notes=setup.notes,
    )


PARTS: dict[str, Callable[[Setup], None]] = {
    part.__name__: part
    for part in (
        *(machine, backbone, speech, parity, formats, training_step, load),
        train_small,
    )
}


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    setup = Setup(
        Notes(given.notes),
        torch.device(given.device),
        given.tiny,
        began + given.seconds,
        given.keep,
    )
    PARTS[given.name](setup)


if __name__ == "__main__":
    main()
