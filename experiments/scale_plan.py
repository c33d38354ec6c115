"""Estimate what training Dream-7B takes on many GPUs, and check the formulas.

    python -m experiments.scale_plan [--json FILE]

No GPU is used. The formulas give memory, communication and FLOPs from sizes alone. They are checked
twice: against the full model sharded over simulated processes (tensors without data, collectives
that only count), and against a small model that two real processes train on this machine. Times
follow from the stated assumptions, which are not measured here.

Dimensions: W GPUs, L tokens of a row, N masked tokens of it, D hidden size, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.diffusion.loss import token_losses
from omni_diffusion.io import files
from omni_diffusion.models.doctor import official_size, typical_canvases
from omni_diffusion.models.lora import lora_config
from omni_diffusion.models.sizes import MAX_TRAINING_LENGTH
from omni_diffusion.training.distributed import World, shard
from omni_diffusion.training.optim import OptimConfig, adamw
from omni_diffusion.training.stages import BATCH_SIZE, CORPORA, paper_stage

RESULTS = Path("experiments/results/scale-plan.json")
RANK = 16
SMALL = DreamConfig(
    vocab_size=2000,
    hidden_size=256,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=768,
    speech_dim=64,
)
SMALL_LENGTH = 256
GB = 1e9


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the plan; none is measured.

    peak: FLOPs per second of a GPU in bfloat16 (H100 SXM, dense, from its data sheet). achieved:
    the fraction of it that training reaches. inside, between: bytes per second that a GPU sends in
    a collective of the 8 GPUs of a machine (NVLink), and of several machines (one 400 Gbit/s card
    for each GPU). disk: bytes per second that a machine writes. to_host: bytes per second from a
    GPU to main memory. masked: fraction of the tokens of a row that is masked.
    """

    peak: float = 989e12
    achieved: float = 0.4
    inside: float = 300e9
    between: float = 40e9
    disk: float = 2e9
    to_host: float = 20e9
    masked: float = 0.4


@dataclass(frozen=True)
class Case:
    """A training setup: sizes, GPUs, LoRA rank, gradient checkpointing, rows of a micro-batch."""

    config: DreamConfig
    gpus: int
    lora: int | None = None
    checkpointing: bool = True
    places: int = MAX_TRAINING_LENGTH
    masked: int = MAX_TRAINING_LENGTH
    rows: int = 1

    # ---------------------------------------------------------------------------------- weights
    def block(self) -> list[tuple[tuple[int, ...], bool]]:
        """Shapes of a block's weights, and whether they are trained."""
        one = self.config
        q, kv = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim
        d, f = one.hidden_size, one.intermediate_size
        matrices = [(q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f)]
        whole: list[tuple[int, ...]] = [*matrices, (q,), (kv,), (kv,), (d,), (d,)]
        found = [(shape, self.lora is None) for shape in whole]
        for rows, columns in matrices if self.lora else ():
            assert self.lora
            found += [((self.lora, columns), True), ((rows, self.lora), True)]
        return found

    def root(self) -> list[tuple[tuple[int, ...], bool]]:
        """The same for the weights outside the blocks: embedding, head, last norm, adapter."""
        one = self.config
        d, s = one.hidden_size, one.speech_dim
        tables = [(one.vocab_size, d)] * (1 if one.tie_embeddings else 2)
        whole = [*tables, (d,), (s,), (s,), (d, s), (d, d)]
        return [(shape, self.lora is None) for shape in whole]

    def count(self, *, trained: bool = False, local: bool = False) -> int:
        """Number of weights; with `local`, those of one process.

        FSDP2 splits the first dimension into equal shards, the last of which are padded.
        """
        return self._count(self.root(), trained, local) + self.config.num_layers * self._count(
            self.block(), trained, local
        )

    def _count(
        self, shapes: list[tuple[tuple[int, ...], bool]], trained: bool = False, local: bool = False
    ) -> int:
        by = self.gpus
        return sum(
            (math.ceil(shape[0] / by) if local else math.ceil(shape[0] / by) * by)
            * math.prod(shape[1:])
            for shape, moves in shapes
            if moves or not trained
        )

    # ----------------------------------------------------------------------------------- memory
    def memory(self) -> dict[str, int]:
        """Bytes of one GPU by purpose.

        moving_average: of the trained weights. gathered: weights outside the blocks, in bfloat16,
        which stay from forward to backward. gathered_blocks: the block in use and the next one.
        activations: saved for the backward pass. logits: in bfloat16, and in float32 the softmax
        and two gradients. reducing: at the end of the backward pass, the gradients of the weights
        outside the blocks, in bfloat16 and as they are sent in float32.
        """
        local, trained = self.count(local=True), self.count(trained=True, local=True)
        root, root_trained = self._count(self.root()), self._count(self.root(), trained=True)
        return {
            "parameters": 4 * local,
            "adam_moments": 8 * trained,
            "moving_average": 4 * trained,
            "gradients": 4 * trained,
            "gathered": 2 * root,
            "gathered_blocks": 2 * 2 * self._count(self.block()),
            "activations": self.activations(),
            "logits": 14 * self.rows * self.masked * self.config.vocab_size,
            "reducing": 6 * root_trained,
        }

    def peak(self, *, average: bool = True) -> int:
        """Peak bytes of one GPU.

        The peak is at the logits, in the first block of the backward pass, or at its end.
        """
        m = self.memory()
        always = m["parameters"] + m["adam_moments"] + average * m["moving_average"] + m["gathered"]
        block = self._count(self.block(), trained=True)
        inside = self.rows * self.places * self.saved_per_token() if self.checkpointing else 0
        head = 2 * self._count(self.root()[1:2], trained=True)
        return always + max(
            m["activations"] + m["logits"],
            m["activations"] + inside + m["gathered_blocks"] + 6 * block + head,
            m["gradients"] + m["reducing"],
        )

    def activations(self) -> int:
        """Bytes that a micro-batch saves for the backward pass, in blocks, last norm and head.

        With gradient checkpointing a block saves only its input.
        """
        one = self.config
        d, frozen = one.hidden_size, self.lora is not None
        block = 2 * d if self.checkpointing else self.saved_per_token()
        after = (6 if frozen else 10) * d + 4 + 2 * 2 * one.head_dim
        if frozen and not self.checkpointing:
            after -= 4 * d  # the first norm needs no gradient of its input
        return self.rows * self.places * (one.num_layers * block + after)

    def saved_per_token(self) -> int:
        """Bytes that a block saves for each token without gradient checkpointing.

        Each norm: its input in float32, its output, and for its weight the normalised input.
        Attention: queries, keys, values, output, and a float32 for each head. Feed-forward: both
        products, the activated gate, and the input of the last product. LoRA: the inner output of
        each pair of factors.
        """
        one = self.config
        q, kv = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim
        normed = 2 if self.lora is None else 0
        norms = 2 * (4 + normed + 2) * one.hidden_size + 2 * 4
        attention = 2 * (2 * q + 2 * kv) + 4 * one.num_heads
        return norms + attention + 8 * one.intermediate_size + 7 * 2 * (self.lora or 0)

    # --------------------------------------------------------------------------- bytes and work
    def moved(self) -> dict[str, int]:
        """Bytes of the tensors that a micro-batch gathers and reduces on each GPU.

        A GPU sends and receives (W - 1) / W of each.
        """
        block, root = self._count(self.block()), self._count(self.root())
        layers = self.config.num_layers
        return {
            "gathered_forward": 2 * (layers * block + root),
            "gathered_backward": 2 * layers * block,
            "reduced": 4
            * (
                layers * self._count(self.block(), trained=True)
                + self._count(self.root(), trained=True)
            ),
        }

    def flops(self) -> int:
        """FLOPs of a micro-batch, forward and backward, two for a multiply-add."""
        one, places, layers = self.config, self.places, self.config.num_layers
        q, kv, d = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim, one.hidden_size
        into, down = 2 * places * d * (q + 2 * kv), 2 * places * d * one.intermediate_size
        linear = into + 2 * places * d * q + 3 * down
        attention = 4 * places**2 * q
        head = 2 * self.masked * d * one.vocab_size
        again = 1 if self.checkpointing else 0
        if self.lora is None:
            linear = (
                3 + again
            ) * linear - again * down  # the last product of a block is not recomputed
            return int(self.rows * (layers * (linear + (3.5 + again) * attention) + 3 * head))
        factors = 2 * places * sum(math.prod(s) for s, moves in self.block() if moves)
        first = into + 2 * places * 3 * self.lora * d  # no gradient below the first block
        block = (2 + again) * linear + (3.5 + again) * attention + (3 + again) * factors
        return int(self.rows * (layers * block + 2 * head - first))


# -------------------------------------------------------------------------------------- counting
KINDS = {"_allgather_base_": "gathered", "_reduce_scatter_base_": "reduced"}


class CollectiveCounter(TorchDispatchMode):
    """Counts the collectives of FSDP2 by kind, and the bytes of their full tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = dict.fromkeys(KINDS.values(), 0)
        self.bytes = dict.fromkeys(KINDS.values(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = KINDS.get(str(func).split(".")[1]) if str(func).startswith("c10d") else None
        if kind is not None:
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            self.calls[kind] += 1
            self.bytes[kind] += max(t.numel() * t.element_size() for t in tensors)
        return out


class SavedTensorCounter:
    """Counts the bytes that autograd saves: each storage once, without weights."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kept = module, dict[int, Tensor]()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside the block."""

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                self.kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def bytes(self) -> int:
        """Total bytes, without gathered weights, which are the storage of a parameter."""
        own = {p.untyped_storage()._cdata for p in self.module.parameters() if not _is_sharded(p)}
        return sum(t.untyped_storage().nbytes() for key, t in self.kept.items() if key not in own)


def _is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, (q[0], q[1], *k[2:]), (q[0], q[1], *v[2:]))
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
            grad, q, (q[0], q[1], *k[2:]), (q[0], q[1], *v[2:])
        )
    ),
}
"""FLOPs of the fused attention on a CPU; each key-value head serves several query heads."""


def build_model(case: Case) -> Dream:
    """The model of a case, with LoRA factors if it has a rank."""
    model = Dream(case.config)
    if case.lora is not None:
        peft.inject_adapter_in_model(lora_config(case.lora), model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    model.checkpointing(case.checkpointing)
    return model.train()


def run_step(case: Case, model: Dream, mesh: DeviceMesh, *, simulated: bool) -> dict[str, int]:
    """Shard as `train manifest` does, run forward and backward, and return the counts.

    All tokens are masked, since tensors without data cannot select some.
    """
    world = World(dist.get_rank(), dist.get_world_size())
    shard(model, list(model.model.layers), world, "bfloat16", mesh)
    optimizer = adamw([model], OptimConfig())
    parameters = [*model.parameters()]
    local = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    ids = torch.zeros(case.rows, case.places, dtype=torch.int64)
    counted, work = CollectiveCounter(), FlopCounterMode(display=False, custom_mapping=FUSED)
    saved, memory = SavedTensorCounter(model), FSDPMemTracker(model, optimizer)
    with ExitStack() as counters:
        if simulated:
            memory.track_inputs((ids,))
            counters.enter_context(memory)
        counters.enter_context(work)
        counters.enter_context(counted)
        with saved.counting() if not case.checkpointing else ExitStack():
            logits = model(ids).flatten(0, 1)
            kept = saved.bytes()
            saved.kept.clear()
        loss = token_losses(logits, torch.zeros(len(logits), dtype=torch.int64)).sum()
        del logits
        loss.backward()  # type: ignore[no-untyped-call]
    found = {
        "local_parameters": local,
        "gathered": counted.bytes["gathered"],
        "gather_calls": counted.calls["gathered"],
        "reduced": counted.bytes["reduced"],
        "reduce_calls": counted.calls["reduced"],
        "flops": work.get_total_flops(),
        "moments": sum(
            s[k].to_local().numel() * s[k].element_size()
            for s in optimizer.state.values()
            for k in ("exp_avg", "exp_avg_sq")
        ),
        "gradients": sum(
            p.grad.to_local().numel() * p.grad.element_size()
            for p in parameters
            if isinstance(p.grad, DTensor)
        ),
    }
    if not case.checkpointing:
        found["saved"] = kept
    if simulated:
        found["peak"] = sum(
            kinds["Total"] for kinds in memory.get_tracker_snapshot("peak").values()
        )
    return found


def expected(case: Case) -> dict[str, int]:
    """The counts that the formulas predict."""
    moved, memory = case.moved(), case.memory()
    blocks, trains = case.config.num_layers, case.lora is None
    found = {
        "local_parameters": case.count(local=True),
        "gathered": moved["gathered_forward"] + moved["gathered_backward"],
        "gather_calls": 2 * blocks + 1,
        "reduced": moved["reduced"],
        "reduce_calls": blocks + trains,
        "flops": case.flops(),
        "moments": memory["adam_moments"],
        "gradients": memory["gradients"],
        "peak": case.peak(average=False),
    }
    if not case.checkpointing:
        found["saved"] = case.activations()
    return found


def compared(case: Case, counted: Mapping[str, int]) -> dict[str, Any]:
    """Formula and count, and their ratio."""
    formula = expected(case)
    return {
        "gpus": case.gpus,
        "lora": case.lora,
        "checkpointing": case.checkpointing,
        "places": case.places,
        "masked": case.masked,
        "rows": case.rows,
    } | {
        name: {
            "formula": formula[name],
            "counted": value,
            "counted_over_formula": round(value / formula[name], 4),
        }
        for name, value in counted.items()
    }


def count_simulated(case: Case) -> dict[str, Any]:
    """The full model over W simulated processes, with tensors without data."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.gpus)
    mesh = init_device_mesh("cpu", (case.gpus,))
    with torch.device("meta"):
        model = build_model(case)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            for module in model.modules():
                for name, weight in module.named_parameters(recurse=False):
                    empty = torch.empty(weight.shape, device="cpu")
                    setattr(module, name, nn.Parameter(empty, weight.requires_grad))
            return compared(case, run_step(case, model, mesh, simulated=True))
    finally:
        dist.destroy_process_group()


def count_real() -> dict[str, Any]:
    """A small model trained by two processes of this machine, with their counts."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "counted.json"
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        subprocess.run(
            [sys.executable, "-m", *torchrun, "-m", "experiments.scale_plan", "--count", str(out)],
            check=True,
        )
        return json.loads(out.read_text())


def count(out: Path) -> None:
    """Runs in each of the two processes of `count_real`."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    rows = []
    for lora in (None, RANK):
        for checkpointing in (False, True):
            case = Case(SMALL, 2, lora, checkpointing, SMALL_LENGTH, SMALL_LENGTH)
            rows.append(compared(case, run_step(case, build_model(case), mesh, simulated=False)))
    if dist.get_rank() == 0:
        out.write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


# -------------------------------------------------------------------------------------- the plan
def planned(
    case: Case, assumed: Assumptions, samples: int, places_a_sample: float
) -> dict[str, Any]:
    """Memory, communication, FLOPs and time of a step of `samples` over all GPUs."""
    own = samples * places_a_sample / case.gpus  # tokens of a GPU
    micro = math.ceil(own / case.places / case.rows)  # each gathers and reduces all weights
    places = math.ceil(own / micro / case.rows)
    filled = replace(case, places=places, masked=math.ceil(assumed.masked * places))
    link = assumed.inside if case.gpus <= 8 else assumed.between
    sent = micro * sum(filled.moved().values()) * (case.gpus - 1) / case.gpus
    work = micro * filled.flops()
    computing, moving = work / (assumed.peak * assumed.achieved), sent / link
    full = replace(case, masked=math.ceil(assumed.masked * case.places))
    tokens = samples * places_a_sample
    return {
        "gpus": case.gpus,
        "lora": case.lora,
        "checkpointing": case.checkpointing,
        "samples_a_step": samples,
        "micro_batches": micro,
        "rows_of_a_micro_batch": case.rows,
        "places_of_a_row": places,
        "memory_gb": {name: round(b / GB, 2) for name, b in full.memory().items()}
        | {"peak": round(full.peak() / GB, 1)},
        "moved_gb_a_step": {name: round(micro * b / GB, 1) for name, b in filled.moved().items()},
        "tflop_a_step": round(work / 1e12, 1),
        "seconds_computing": round(computing, 3),
        "seconds_moving": round(moving, 3),
        "seconds_a_step_if_hidden": round(max(computing, moving), 3),
        "seconds_a_step_if_not": round(computing + moving, 3),
        "tokens_a_second_if_hidden": round(tokens / max(computing, moving)),
        "tokens_a_second_if_not": round(tokens / (computing + moving)),
    }


def state(case: Case, assumed: Assumptions) -> dict[str, Any]:
    """A checkpoint: trained weights, their EMA and two moments, all in float32."""
    size = 16 * replace(case, gpus=1).count(trained=True)  # padding is not saved
    machines = math.ceil(case.gpus / 8)
    return {
        "gpus": case.gpus,
        "lora": case.lora,
        "gb": round(size / GB, 1),
        "gb_of_a_process": round(size / case.gpus / GB, 2),
        "seconds_to_host": round(size / case.gpus / assumed.to_host, 2),
        "seconds_to_disk": round(size / machines / assumed.disk, 1),
    }


def sizes_of_samples() -> dict[str, float]:
    """Tokens of a typical sample by task; the number of chat is a guess."""
    usual = {task: float(places) for task, (places, _) in typical_canvases(official_size()).items()}
    usual["caption"] = usual["vqa"]
    usual["chat"] = 512.0
    usual["sqa"] = usual["asr"] + usual["tts"]
    usual["svqa"] = usual["vqa"] + usual["tts"]
    usual["s2i"] = usual["t2i"] + usual["asr"]
    return usual


def stages(assumed: Assumptions) -> list[dict[str, Any]]:
    """Days of one epoch of each of the paper's stages, full fine-tuning with checkpointing."""
    usual, rows = sizes_of_samples(), []
    for number in (1, 2, 3):
        mix = paper_stage(number).task_weights
        total = sum(mix.values())
        mean = sum(usual[task] * share for task, share in mix.items()) / total
        available = sum(one.samples for one in CORPORA if number in one.stages)
        for gpus, samples in ((8, BATCH_SIZE), (64, BATCH_SIZE), (64, 8 * BATCH_SIZE)):
            case = Case(DreamConfig.dream_7b(), gpus, rows=4)
            step = planned(case, assumed, samples, mean)
            steps = math.ceil(available / samples)
            rows.append(
                {
                    "stage": number,
                    "samples": round(available),
                    "places_a_sample": round(mean),
                    "gpus": gpus,
                    "samples_a_step": samples,
                    "steps": steps,
                    "days_if_hidden": round(steps * step["seconds_a_step_if_hidden"] / 86400, 1),
                    "days_if_not": round(steps * step["seconds_a_step_if_not"] / 86400, 1),
                }
            )
    return rows


# ---------------------------------------------------------------------------------------- tables
def tables(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The rows of the tables of docs/scale.md, by table."""
    one = {setup_cells(row): row for row in results["plan"] if row["rows_of_a_micro_batch"] == 1}
    four = {setup_cells(row): row for row in results["plan"] if row["rows_of_a_micro_batch"] == 4}
    memory = []
    for key, row in one.items():
        gigabytes = row["memory_gb"]
        names = ("parameters", "gradients", "adam_moments", "moving_average", "gathered")
        names += ("gathered_blocks", "activations", "logits", "reducing", "peak")
        memory.append(
            line(*key, *(gigabytes[name] for name in names), four[key]["memory_gb"]["peak"])
        )
    times = []
    for row in sorted(results["plan"], key=lambda row: row["gpus"]):
        moved = row["moved_gb_a_step"]
        times.append(
            line(
                *setup_cells(row),
                row["rows_of_a_micro_batch"],
                round(moved["gathered_forward"] + moved["gathered_backward"], 1),
                moved["reduced"],
                row["tflop_a_step"],
                row["seconds_computing"],
                row["seconds_moving"],
                f"{row['tokens_a_second_if_not']:,} to {row['tokens_a_second_if_hidden']:,}",
            )
        )
    days = [
        line(
            row["stage"],
            round(row["samples"] / 1e6, 1),
            row["places_a_sample"],
            row["gpus"],
            row["samples_a_step"],
            f"{row['steps']:,}",
            f"{row['days_if_hidden']} to {row['days_if_not']}",
        )
        for row in results["stages"]
    ]
    kept = [
        line(
            row["gpus"],
            trained_weights(row),
            row["gb"],
            row["gb_of_a_process"],
            row["seconds_to_host"],
            row["seconds_to_disk"],
        )
        for row in results["states"]
    ]
    checks = []
    for name, rows in (
        ("Dream-7B", results["pretended"]),
        ("small", results["two_real_processes"]),
    ):
        for row in rows:
            names = ("local_parameters", "gathered", "reduced", "flops", "saved", "peak")
            shares = (row[n]["counted_over_formula"] if n in row else "" for n in names)
            checks.append(line(name, *setup_cells(row), row["rows"], *shares))
    return {"memory": memory, "times": times, "days": days, "states": kept, "checks": checks}


def setup_cells(row: Mapping[str, Any]) -> tuple[int, str, str]:
    """GPUs, trained weights, and whether gradient checkpointing is on."""
    return row["gpus"], trained_weights(row), "yes" if row["checkpointing"] else "no"


def trained_weights(row: Mapping[str, Any]) -> str:
    """The trained weights."""
    return "all" if row["lora"] is None else f"LoRA {row['lora']}"


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--count", type=Path, help="used internally by the two real processes")
    options = parser.parse_args()
    if options.count is not None:
        count(options.count)
        return
    start, assumed, official = time.monotonic(), Assumptions(), DreamConfig.dream_7b()
    ways = [(lora, kept) for lora in (None, RANK) for kept in (True, False)]
    results = {
        "torch": torch.__version__,
        "assumed": asdict(assumed),
        "parameters": Case(official, 1).count(),
        "trained_by_lora": Case(official, 1, RANK).count(trained=True),
        # of all heads in bfloat16, if attention were not fused; not used in the plan
        "scores_gb_of_a_block": round(2 * official.num_heads * MAX_TRAINING_LENGTH**2 / GB, 2),
        "plan": [
            planned(
                Case(official, gpus, lora, kept, rows=rows),
                assumed,
                rows * gpus,
                MAX_TRAINING_LENGTH,
            )
            for gpus in (8, 64)
            for lora, kept in ways
            for rows in (1, 4)
        ],
        "states": [
            state(Case(official, gpus, lora), assumed) for gpus in (8, 64) for lora in (None, RANK)
        ],
        "places_of_samples": sizes_of_samples(),
        "stages": stages(assumed),
        "pretended": [
            count_simulated(Case(official, 64)),
            count_simulated(Case(official, 8, checkpointing=False)),
            count_simulated(Case(official, 64, RANK)),
            count_simulated(Case(official, 64, rows=4)),
        ],
        "two_real_processes": count_real(),
    }
    results["seconds"] = round(time.monotonic() - start)
    print(json.dumps(results, indent=2))
    files.write_text(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
