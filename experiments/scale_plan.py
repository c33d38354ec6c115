"""What training Dream-7B takes on many GPUs: a plan by formulas, and the formulas checked.

    python -m experiments.scale_plan [--json FILE]

No GPU is used. The formulas tell memory, bytes moved and operations from sizes alone. They are
checked twice: against the whole model sharded over pretended processes (tensors without content,
collectives that only count), and against a small one that two real processes train on this
machine. Times follow from the stated assumptions, which are measured nowhere here.

Letters: W GPUs, L places of a row, N masked places of it, D hidden size, V vocabulary.
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
from omni_diffusion.data.packing import MAX_LENGTH
from omni_diffusion.diffusion.loss import token_losses
from omni_diffusion.integrations.peft import lora_config
from omni_diffusion.io import files
from omni_diffusion.models import doctor
from omni_diffusion.training.distributed import World, shard
from omni_diffusion.training.optim import OptimConfig, adamw
from omni_diffusion.training.stages import BATCH, CORPORA, paper

RESULTS = Path("benchmarks/results/scale-plan.json")
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
SMALL_PLACES = 256
GB = 1e9


@dataclass(frozen=True)
class Assumed:
    """What the plan takes for granted: none of it was measured.

    peak: operations a second of a GPU in bfloat16 (H100 SXM, dense, by its data sheet). achieved:
    the share of it that training reaches. inside, between: bytes a second that a GPU sends in a
    collective of one machine's 8 GPUs (NVLink), and of several machines' (one 400 Gbit/s card for
    each GPU). disk: bytes a second that a machine writes. to_host: bytes a second from a GPU to
    main memory. masked: the share of a row's places that is masked.
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
    """One way to train: sizes, GPUs, what is trained, what is kept, rows of a micro-batch."""

    config: DreamConfig
    gpus: int
    lora: int | None = None
    checkpointing: bool = True
    places: int = MAX_LENGTH
    masked: int = MAX_LENGTH
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
        """Likewise of what is no block: embedding, head, last norm, adapter."""
        one = self.config
        d, s = one.hidden_size, one.speech_dim
        tables = [(one.vocab_size, d)] * (1 if one.tie_embeddings else 2)
        whole = [*tables, (d,), (s,), (s,), (d, s), (d, d)]
        return [(shape, self.lora is None) for shape in whole]

    def count(self, *, trained: bool = False, local: bool = False) -> int:
        """Weights; of this process alone with `local`, whose parts are all as large as the first.

        FSDP2 parts the first dimension; what is left over is padding.
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
        """Bytes of one GPU by part.

        moving_average: as the trainer keeps it, of what is trained. gathered: what is no block,
        which stays from forward to backward, in bfloat16; gathered_block: two of them, that in use
        and the next. activations: what a row leaves for the way back. logits: themselves in
        bfloat16, and in float32 the softmax and two gradients. reducing: at the end of the way
        back, the gradients of what is no block, in bfloat16 and as they are sent in float32.
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
        """Bytes of one GPU at the fullest moment.

        That is at the logits, in the last block on the way back, or at the end of it.
        """
        m = self.memory()
        always = m["parameters"] + m["adam_moments"] + average * m["moving_average"] + m["gathered"]
        block = self._count(self.block(), trained=True)
        inside = self.rows * self.places * self.saved_a_place() if self.checkpointing else 0
        head = 2 * self._count(self.root()[1:2], trained=True)
        return always + max(
            m["activations"] + m["logits"],
            m["activations"] + inside + m["gathered_blocks"] + 6 * block + head,
            m["gradients"] + m["reducing"],
        )

    def activations(self) -> int:
        """Bytes that a micro-batch leaves for the way back: of the blocks, the last norm, the head.

        With checkpointing a block leaves its input.
        """
        one = self.config
        d, frozen = one.hidden_size, self.lora is not None
        block = 2 * d if self.checkpointing else self.saved_a_place()
        after = (6 if frozen else 10) * d + 4 + 2 * 2 * one.head_dim
        if frozen and not self.checkpointing:
            after -= 4 * d  # the first norm has nothing before it that is trained
        return self.rows * self.places * (one.num_layers * block + after)

    def saved_a_place(self) -> int:
        """Bytes that a block keeps of each place without checkpointing.

        Each norm: its input in float32, the weighed one, and for its weight the normed one.
        Attention: queries, keys, values, what it gives, and a float32 for each head. Feed-forward:
        both products, the gate's nonlinearity, and what goes down. LoRA: the inner side of each
        pair of factors.
        """
        one = self.config
        q, kv = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim
        normed = 2 if self.lora is None else 0
        norms = 2 * (4 + normed + 2) * one.hidden_size + 2 * 4
        attention = 2 * (2 * q + 2 * kv) + 4 * one.num_heads
        return norms + attention + 8 * one.intermediate_size + 7 * 2 * (self.lora or 0)

    # --------------------------------------------------------------------------- bytes and work
    def moved(self) -> dict[str, int]:
        """Bytes of the tensors that are gathered and reduced for a micro-batch on each GPU.

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
        """Operations of a micro-batch, forward and backward, two for a product and sum."""
        one, places, layers = self.config, self.places, self.config.num_layers
        q, kv, d = one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim, one.hidden_size
        into, down = 2 * places * d * (q + 2 * kv), 2 * places * d * one.intermediate_size
        linear = into + 2 * places * d * q + 3 * down
        attention = 4 * places**2 * q
        head = 2 * self.masked * d * one.vocab_size
        again = 1 if self.checkpointing else 0
        if self.lora is None:
            linear = (3 + again) * linear - again * down  # whose product nothing needs again
            return int(self.rows * (layers * (linear + (3.5 + again) * attention) + 3 * head))
        factors = 2 * places * sum(math.prod(s) for s, moves in self.block() if moves)
        first = into + 2 * places * 3 * self.lora * d  # nothing before the first block is trained
        block = (2 + again) * linear + (3.5 + again) * attention + (3 + again) * factors
        return int(self.rows * (layers * block + 2 * head - first))


# -------------------------------------------------------------------------------------- counting
KINDS = {"_allgather_base_": "gathered", "_reduce_scatter_base_": "reduced"}


class Bytes(TorchDispatchMode):
    """Counts the collectives of FSDP2: by kind how many, and the bytes of their whole tensors."""

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


class Saved:
    """Counts the bytes that autograd keeps, each storage once, weights left out."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kept = module, dict[int, Tensor]()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What is kept within."""

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                self.kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def bytes(self) -> int:
        """All together; a gathered weight is a parameter's storage, and is none of it."""
        own = {p.untyped_storage()._cdata for p in self.module.parameters() if not _parted(p)}
        return sum(t.untyped_storage().nbytes() for key, t in self.kept.items() if key not in own)


def _parted(tensor: Tensor) -> bool:
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
"""Operations of the fused attention on a CPU; key-value heads serve several queries each."""


def made(case: Case) -> Dream:
    """The model, with factors where they are trained."""
    model = Dream(case.config)
    if case.lora is not None:
        peft.inject_adapter_in_model(lora_config(case.lora), model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    model.checkpointing(case.checkpointing)
    return model.train()


def stepped(case: Case, model: Dream, mesh: DeviceMesh, *, pretended: bool) -> dict[str, int]:
    """Shard as `train manifest` does, go forward and back on rows; what was counted.

    All places are masked, for tensors without content cannot say which are.
    """
    world = World(dist.get_rank(), dist.get_world_size())
    shard(model, list(model.model.layers), world, "bfloat16", mesh)
    optimizer = adamw([model], OptimConfig())
    parameters = [*model.parameters()]
    local = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    ids = torch.zeros(case.rows, case.places, dtype=torch.int64)
    counted, work = Bytes(), FlopCounterMode(display=False, custom_mapping=FUSED)
    saved, memory = Saved(model), FSDPMemTracker(model, optimizer)
    with ExitStack() as counters:
        if pretended:
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
    if pretended:
        found["peak"] = sum(
            kinds["Total"] for kinds in memory.get_tracker_snapshot("peak").values()
        )
    return found


def expected(case: Case) -> dict[str, int]:
    """The same by the formulas."""
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
    """Formula and count side by side."""
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


def pretend(case: Case) -> dict[str, Any]:
    """The whole model among W processes of which there is one, and no tensor has content."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.gpus)
    mesh = init_device_mesh("cpu", (case.gpus,))
    with torch.device("meta"):
        model = made(case)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            for module in model.modules():
                for name, weight in module.named_parameters(recurse=False):
                    empty = torch.empty(weight.shape, device="cpu")
                    setattr(module, name, nn.Parameter(empty, weight.requires_grad))
            return compared(case, stepped(case, model, mesh, pretended=True))
    finally:
        dist.destroy_process_group()


def really() -> dict[str, Any]:
    """A small model trained by two processes of this machine; each counts its own."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "counted.json"
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        subprocess.run(
            [sys.executable, "-m", *torchrun, "-m", "experiments.scale_plan", "--count", str(out)],
            check=True,
        )
        return json.loads(out.read_text())


def count(out: Path) -> None:
    """One of the two processes of `really`."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    rows = []
    for lora in (None, RANK):
        for checkpointing in (False, True):
            case = Case(SMALL, 2, lora, checkpointing, SMALL_PLACES, SMALL_PLACES)
            rows.append(compared(case, stepped(case, made(case), mesh, pretended=False)))
    if dist.get_rank() == 0:
        out.write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


# -------------------------------------------------------------------------------------- the plan
def planned(case: Case, assumed: Assumed, samples: int, places_a_sample: float) -> dict[str, Any]:
    """Memory, bytes, operations and times of a step of so many samples, all GPUs together."""
    own = samples * places_a_sample / case.gpus  # places of a GPU
    micro = math.ceil(own / case.places / case.rows)  # each gathers and reduces anew
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


def state(case: Case, assumed: Assumed) -> dict[str, Any]:
    """A training state: what is trained four times in float32 (itself, average, two moments)."""
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
    """Places of a usual sample by task; those of chat are a guess."""
    usual = {task: float(places) for task, (places, _) in doctor.official().canvases.items()}
    usual["caption"] = usual["vqa"]
    usual["chat"] = 512.0
    usual["sqa"] = usual["asr"] + usual["tts"]
    usual["svqa"] = usual["vqa"] + usual["tts"]
    usual["s2i"] = usual["t2i"] + usual["asr"]
    return usual


def stages(assumed: Assumed) -> list[dict[str, Any]]:
    """Days of one epoch of each of the paper's stages, full fine-tuning with checkpointing."""
    usual, rows = sizes_of_samples(), []
    for number in (1, 2, 3):
        mix = paper(number).mix
        total = sum(mix.values())
        mean = sum(usual[task] * share for task, share in mix.items()) / total
        held = sum(each.samples for each in CORPORA if number in each.stages)
        for gpus, samples in ((8, BATCH), (64, BATCH), (64, 8 * BATCH)):
            case = Case(DreamConfig.dream_7b(), gpus, rows=4)
            step = planned(case, assumed, samples, mean)
            steps = math.ceil(held / samples)
            rows.append(
                {
                    "stage": number,
                    "samples": round(held),
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
def tables(told: Mapping[str, Any]) -> dict[str, list[str]]:
    """The rows of the tables of docs/scale.md, by what they show."""
    one = {way(row): row for row in told["plan"] if row["rows_of_a_micro_batch"] == 1}
    four = {way(row): row for row in told["plan"] if row["rows_of_a_micro_batch"] == 4}
    memory = []
    for key, row in one.items():
        held = row["memory_gb"]
        names = ("parameters", "gradients", "adam_moments", "moving_average", "gathered")
        names += ("gathered_blocks", "activations", "logits", "reducing", "peak")
        memory.append(line(*key, *(held[name] for name in names), four[key]["memory_gb"]["peak"]))
    times = []
    for row in sorted(told["plan"], key=lambda row: row["gpus"]):
        moved = row["moved_gb_a_step"]
        times.append(
            line(
                *way(row),
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
        for row in told["stages"]
    ]
    kept = [
        line(
            row["gpus"],
            what(row),
            row["gb"],
            row["gb_of_a_process"],
            row["seconds_to_host"],
            row["seconds_to_disk"],
        )
        for row in told["states"]
    ]
    checks = []
    for name, rows in (("Dream-7B", told["pretended"]), ("small", told["two_real_processes"])):
        for row in rows:
            told_of = ("local_parameters", "gathered", "reduced", "flops", "saved", "peak")
            shares = (row[n]["counted_over_formula"] if n in row else "" for n in told_of)
            checks.append(line(name, *way(row), row["rows"], *shares))
    return {"memory": memory, "times": times, "days": days, "states": kept, "checks": checks}


def way(row: Mapping[str, Any]) -> tuple[int, str, str]:
    """GPUs, what is trained, whether it is checkpointed."""
    return row["gpus"], what(row), "yes" if row["checkpointing"] else "no"


def what(row: Mapping[str, Any]) -> str:
    """What is trained."""
    return "all" if row["lora"] is None else f"LoRA {row['lora']}"


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--count", type=Path, help="(for the two processes that count)")
    given = parser.parse_args()
    if given.count is not None:
        count(given.count)
        return
    began, assumed, official = time.monotonic(), Assumed(), DreamConfig.dream_7b()
    ways = [(lora, kept) for lora in (None, RANK) for kept in (True, False)]
    told = {
        "torch": torch.__version__,
        "assumed": asdict(assumed),
        "parameters": Case(official, 1).count(),
        "trained_by_lora": Case(official, 1, RANK).count(trained=True),
        # of all heads in bfloat16, were attention no fused kernel; no part of the plan
        "scores_gb_of_a_block": round(2 * official.num_heads * MAX_LENGTH**2 / GB, 2),
        "plan": [
            planned(Case(official, gpus, lora, kept, rows=rows), assumed, rows * gpus, MAX_LENGTH)
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
            pretend(Case(official, 64)),
            pretend(Case(official, 8, checkpointing=False)),
            pretend(Case(official, 64, RANK)),
            pretend(Case(official, 64, rows=4)),
        ],
        "two_real_processes": really(),
    }
    told["seconds"] = round(time.monotonic() - began)
    print(json.dumps(told, indent=2))
    files.write_text(given.json, json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
