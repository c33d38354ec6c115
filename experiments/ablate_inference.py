"""What each rule of decoding is worth, on the small model as shipped.

    python -m experiments.ablate_inference [--samples 40] [--only order,steps]

A cell is one benchmark of the small world under one setting. All cells of a benchmark answer the
same held-out samples, so two cells can be compared sample by sample. Cells run in the order of
`CELLS`; a cell that is in the result already is not run again, and one that was interrupted
continues where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from omni_diffusion import OmniModel
from omni_diffusion.canvas import Canvas
from omni_diffusion.conversation import Conversation
from omni_diffusion.diffusion import penalties, upstream
from omni_diffusion.engine import prepare
from omni_diffusion.engine.request import Request
from omni_diffusion.evaluation.predictions import Prediction
from omni_diffusion.evaluation.results import EvaluationSettings, kept_predictions
from omni_diffusion.evaluation.scoring import Score, aggregate, bootstrap, capped, ratio
from omni_diffusion.evaluation.session import EvaluationSession, Judges
from omni_diffusion.io import files
from omni_diffusion.mini.benchmarks import EvalContext, SceneBenchmark
from omni_diffusion.mini.evaluate import BANK
from omni_diffusion.mini.paper import PaperRun, paper_benchmark
from omni_diffusion.mini.recordings import Bank
from omni_diffusion.tasks import render
from omni_diffusion.tasks.catalog import CATALOG
from omni_diffusion.tasks.layout import SPEECH_AT, SegmentSpan
from omni_diffusion.tasks.read import Answer
from omni_diffusion.tasks.render import Model, Prepared

RESULT = Path("experiments/results/ablate-inference.json")
DRAWN = 100  # samples of a benchmark; a shorter run takes the first of them
SPOKEN = 30  # most samples of a cell whose answers Whisper has to hear
HEAD = 25  # of 64 positions, as the paper leaves alone 100 of the 256 of its pictures
SPEECH = ("utterance_wer", "svqa")  # benchmarks whose answers are spoken
# Few steps, since the order and the rules matter only where many tokens are committed at once.
PICTURE = {"steps": 4, "guidance": 0.0}  # 16 of 64 codes a step, one forward pass
CAPTION = {"steps": 2}  # 12 of 24 tokens a step
HEARD = {"steps": 4}  # of a transcript of about 30 tokens


@dataclass(frozen=True)
class Cell:
    """One benchmark under one setting.

    overrides: sampling parameters over the model's. length: factor on the length of the answer.
    head: positions that the position penalty leaves alone; None = the paper's 100. speech_at:
    fraction of an answer after which speech begins; None = the model writes that token itself,
    anywhere. reference: whether the other cells of its ablation are compared with it.
    """

    ablation: str
    variant: str
    benchmark: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    length: float = 1.0
    head: int | None = None
    speech_at: float | None = SPEECH_AT
    reference: bool = False

    @property
    def name(self) -> tuple[str, str, str]:
        """What tells it from the other cells."""
        return self.ablation, self.variant, self.benchmark

    @property
    def options(self) -> dict[str, Any]:
        """What decides the answers beside the sampling parameters."""
        return {"length": self.length, "head": self.head, "speech_at": self.speech_at}


def order_cells(
    benchmark: str, base: Mapping[str, Any], *measures: str, name: str = "order"
) -> Iterator[Cell]:
    """Which tokens are committed first."""
    for measure in measures:
        overrides = {**base, "confidence": measure}
        yield Cell(name, measure, benchmark, overrides, reference=measure == "entropy")


def sweep(
    ablation: str,
    benchmark: str,
    base: Mapping[str, Any],
    name: str,
    values: Sequence[Any],
    reference: Any,
) -> Iterator[Cell]:
    """One sampling parameter over several values."""
    for value in values:
        cell = Cell(ablation, f"{value:g}", benchmark, {**base, name: value})
        yield replace(cell, reference=value == reference)


def length_cells(benchmark: str, base: Mapping[str, Any]) -> Iterator[Cell]:
    """The answer's length by the model's rule, half of it and twice as much."""
    for name, factor in (("as trained", 1.0), ("halved", 0.5), ("doubled", 2.0)):
        yield Cell("length", name, benchmark, base, factor, reference=factor == 1)


def constraint_cells(benchmark: str, base: Mapping[str, Any]) -> Iterator[Cell]:
    """With the allowed range of each position, and with the whole vocabulary."""
    for on in (True, False):
        overrides = {**base, "constrain": on}
        yield Cell("constraint", "on" if on else "off", benchmark, overrides, reference=on)


def penalty_cells(benchmark: str, base: Mapping[str, Any]) -> Iterator[Cell]:
    """The position penalty by the paper's and by the published code's rule, beside Halton."""
    code = {**base, "rules": "upstream"}
    yield Cell("position", "none", benchmark, base, reference=True)
    yield Cell("position", "paper", benchmark, {**base, "position_penalty": 2.0}, head=HEAD)
    yield Cell("position", "upstream, none", benchmark, code)
    yield Cell("position", "upstream", benchmark, {**code, "position_penalty": 2.0}, head=HEAD)
    yield Cell("position", "halton", benchmark, {**base, "confidence": "halton"})


def speech_at_cells() -> Iterator[Cell]:
    """Where the token that begins speech is filled in before denoising."""
    for name, at in (("0.25", 0.25), ("0.2", 0.2), ("none", None)):
        yield Cell(
            "pre-infilling", name, "svqa", {"steps": 19}, speech_at=at, reference=at == SPEECH_AT
        )


MEASURES = ("entropy", "margin", "max_probability", "random")
TALK = {"steps": 32}  # of 75 to 150 codes
CELLS: tuple[Cell, ...] = (
    *order_cells("caption", {"steps": 6}, *MEASURES, name="order in more steps"),
    *order_cells("t2i", {"steps": 8, "guidance": 0.0}, *MEASURES[:3], name="order in more steps"),
    *order_cells("caption", CAPTION, *MEASURES),
    *order_cells("t2i", PICTURE, *MEASURES, "halton"),
    *order_cells("asr_wer", HEARD, *MEASURES),
    *length_cells("asr_wer", HEARD),
    *length_cells("caption", CAPTION),
    *constraint_cells("caption", CAPTION),
    *constraint_cells("t2i", PICTURE),
    *constraint_cells("asr_wer", HEARD),
    *sweep("guidance", "t2i", PICTURE, "guidance", (0.0, 1.0, 2.0, 4.0), 0.0),
    *sweep("steps", "t2i", PICTURE, "steps", (1, 2, 4, 8, 16), 4),
    *sweep("steps", "caption", {}, "steps", (1, 2, 6), 2),
    *sweep("repetition", "caption", CAPTION, "repetition_penalty", (1.0, 1.2, 1.5), 1.0),
    *sweep("repetition", "t2i", PICTURE, "repetition_penalty", (1.0, 1.2, 1.5), 1.0),
    *penalty_cells("t2i", PICTURE),
    *speech_at_cells(),
    *length_cells("utterance_wer", TALK),
    *sweep("repetition", "utterance_wer", TALK, "repetition_penalty", (1.0, 1.2), 1.0),
    *order_cells("utterance_wer", TALK, *MEASURES),
    *sweep("steps", "asr_wer", {}, "steps", (1, 2, 4, 8, 16), 4),
    *constraint_cells("utterance_wer", TALK),
    *order_cells("s2i", {"steps": 22}, *MEASURES),
)


@dataclass(eq=False)
class AblatedBenchmark(SceneBenchmark):
    """A benchmark of the small world whose requests carry the setting of a cell.

    tokens: the length of an answer to a conversation; None = the model's rule.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    tokens: Callable[[Conversation], int] | None = None

    def _request(self, task: str, conversation: Conversation) -> Request:
        length = None if self.tokens is None else self.tokens(conversation)
        return Request(task, conversation, dict(self.overrides), max_tokens=length)


class Ablation:
    """The model, the benchmarks of a seed and the session that keeps the answers."""

    def __init__(self, model: OmniModel, folder: Path | None, out: Path, seed: int) -> None:
        self.model, self.seed = model, seed
        self.judges = Judges()
        self.session = EvaluationSession.of(model, folder, out, batch=8, judges=self.judges)
        self.bank = cache(partial(Bank.open, BANK))
        self.benchmark = cache(self._benchmark)

    def run(self, cell: Cell, samples: int) -> dict[str, Any]:
        """The row of a cell: its setting, its metric and the score of every sample."""
        spoken = cell.benchmark in SPEECH
        hear = self.judges.transcriber() if spoken else None
        benchmark = self.benchmark(cell.benchmark)
        known = asdict(render.sampling_defaults(CATALOG[benchmark.task], self.model))
        # what the model does anyway is no setting, so equal cells share their answers
        overrides = {name: v for name, v in cell.overrides.items() if known[name] != v}
        settings = EvaluationSettings(
            f"ablate-{cell.benchmark}",
            None,
            overrides,
            {} if hear is None else {"whisper": hear.version},
            {"seed": self.seed, "drawn": DRAWN, **cell.options},
        )
        limit = min(samples, SPOKEN) if spoken else samples
        tokens = None if cell.length == 1 else partial(self._tokens, benchmark.task, cell.length)
        ablated = AblatedBenchmark(
            benchmark.name, benchmark.task, benchmark.samples(), overrides=overrides,
            tokens=tokens,
        )  # fmt: skip
        with decoding(cell):
            record = self.session.run(ablated, settings, limit=limit)
        kept = kept_predictions(record.folder(self.session.out))[:limit]
        scores = [score_of(cell.benchmark, each) for each in kept]
        return {
            **asdict(cell),
            **aggregate(scores),
            "failed": sum(each.failed for each in kept),
            "forward_passes": sum(each.steps for each in kept) / len(kept),
            "seconds": sum(each.share for each in kept) / len(kept),
            "scores": [[score.amount, score.of] for score in scores],
        }

    def _benchmark(self, name: str) -> SceneBenchmark:
        if name in SPEECH or name == "asr_wer":
            return paper_benchmark(
                PaperRun(name), self.model.codecs, self.bank, self.judges.transcriber(), self.seed,
                DRAWN,
            )  # fmt: skip
        with patch.object(EvalContext, "reconstruct", lambda self, picture, size: picture):
            # a ceiling is not needed here, and would encode every picture
            return paper_benchmark(
                PaperRun(name), self.model.codecs, self.bank, Silent(), self.seed, DRAWN
            )

    def _tokens(self, task: str, factor: float, conversation: Conversation) -> int:
        request = Request(task, conversation)
        first, last = prepare.prepare(request, self.model).canvas.answer
        return max(4, round(factor * (last - first)))


class Silent:
    """Stands where a benchmark wants a transcriber and never asks it."""

    version = "none"

    def transcribe(self, waveform: object) -> str:
        """Not called."""
        raise NotImplementedError


def score_of(benchmark: str, prediction: Prediction) -> Score:
    """The score that an ablation counts.

    Speech: at most as many word errors as the sentence has words, since Whisper can repeat a phrase
    without end.
    """
    scores = prediction.scored()
    if benchmark == "utterance_wer":
        return capped(scores["corpus_wer"])
    if benchmark == "svqa":
        return scores["speech_wer_capped"]
    return scores["value"] if "value" in scores else scores["held_out_voices"]


# ------------------------------------------------------------------------------- changed rules
@contextmanager
def decoding(cell: Cell) -> Iterator[None]:
    """Decode as a cell says, in what is no parameter of a request."""
    with ExitStack() as stack:
        if cell.head is not None:
            for module in (penalties, upstream):
                stack.enter_context(patch.object(module, "HEAD", cell.head))
        if cell.speech_at is None:
            stack.enter_context(patch.object(prepare, "render", render_free))
            stack.enter_context(patch.object(prepare, "read", read_free))
        elif cell.speech_at != SPEECH_AT:
            stack.enter_context(patch.object(render, "SPEECH_AT", cell.speech_at))
        yield


def render_free(*given: Any, **named: Any) -> Prepared:
    """As `render`, but the token that begins speech is masked, and may stand anywhere."""
    prepared = render.render(*given, **named)
    canvas, model = prepared.canvas, given[2]
    first, last = canvas.answer
    ids, blank, allowed = canvas.ids.clone(), canvas.blank.clone(), canvas.allowed.clone()
    ids[first:last], blank[first:last] = model.vocabulary.mask, True
    allowed[first:last] = torch.tensor(model.vocabulary.range("any"))
    free = Canvas(ids, blank, allowed, canvas.answer, canvas.slots)
    return replace(prepared, canvas=free)


def read_free(canvas: Canvas, prepared: Prepared, model: Model) -> Answer:
    """As `read`, with the speech after the first token that begins it."""
    from omni_diffusion.tasks.read import read

    first, last = canvas.answer
    opener = model.vocabulary.id("begin_of_audio")
    found = (canvas.ids[first:last] == opener).nonzero().flatten().tolist()
    at = first + found[0] if found else last
    spans = [SegmentSpan("text", first, at)]
    spans += [SegmentSpan("speech", at + 1, last)] if at + 1 < last else []
    return read(canvas, replace(prepared, spans=tuple(spans)), model)


# ---------------------------------------------------------------------------------------- results
def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their difference to the reference of their ablation, on the same samples."""
    references = {(r["ablation"], r["benchmark"]): r for r in rows if r["reference"]}
    found = []
    for row in rows:
        known = references.get((row["ablation"], row["benchmark"]))
        row = {name: value for name, value in row.items() if name != "difference"}
        if known is not None and not row["reference"]:
            pairs = list(zip(row["scores"], known["scores"], strict=False))  # the shorter run's
            row["difference"] = bootstrap(pairs, _difference)
        found.append(row)
    return found


def _difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The ratio of the first scores minus that of the second."""
    first, second = ([Score(*pair[i]) for pair in pairs] for i in (0, 1))
    return ratio(first) - ratio(second)


def tables(made: Mapping[str, Any]) -> dict[str, list[str]]:
    """By ablation, the lines of its table in Markdown."""
    found: dict[str, list[str]] = {}
    for row in made["rows"]:
        lines = found.setdefault(row["ablation"], [HEAD_LINE, "| --- | --- | --- | --- | --- |"])
        gap = row.get("difference")
        cells = (
            TITLES[row["benchmark"]],
            row["variant"],
            _percent(row),
            "" if gap is None else _percent(gap, signed=True),
            str(row["n"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return found


def _percent(metric: Mapping[str, Any], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{100 * metric['value']:{sign}.1f} % ± {100 * metric['stderr']:.1f} %"


HEAD_LINE = "| what | setting | value | difference | n |"
TITLES = {
    "caption": "caption, right",
    "t2i": "t2i, right",
    "asr_wer": "asr, word errors",
    "utterance_wer": "tts, word errors",
    "svqa": "svqa, spoken word errors",
    "s2i": "s2i, right",
}


# ---------------------------------------------------------------------------------------- running
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=40, help=f"of a cell, up to {DRAWN}")
    parser.add_argument("--only", help="these ablations, separated by commas")
    parser.add_argument("--model", type=Path, help="a folder (default: the shipped model)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"), help="keeps the answers")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--tables", action="store_true", help="print the tables, run nothing")
    given = parser.parse_args()
    if given.tables:
        for name, lines in tables(json.loads(given.json.read_text())).items():
            print(f"## {name}\n", *lines, "", sep="\n")
        return
    torch.set_num_threads(1)
    chosen = [c for c in CELLS if given.only is None or c.ablation in given.only.split(",")]
    model = OmniModel.open(given.model) if given.model else OmniModel.open()
    ablation = Ablation(model, given.model, given.out, given.seed)
    made = json.loads(given.json.read_text()) if given.json.exists() else {}
    told = {"model": dict(ablation.session.model), "seed": given.seed}
    if made and {name: made[name] for name in told} != told:
        parser.error(f"{given.json} is of another model or seed; move it")
    made = made or {**told, "rows": []}
    for count, cell in enumerate(chosen, 1):
        wanted = min(given.samples, SPOKEN) if cell.benchmark in SPEECH else given.samples
        rows = {(r["ablation"], r["variant"], r["benchmark"]): r for r in made["rows"]}
        if cell.name in rows and rows[cell.name]["n"] >= wanted:
            continue
        rows[cell.name] = ablation.run(cell, given.samples)
        made["rows"] = compared([rows[c.name] for c in CELLS if c.name in rows])
        files.write_text(given.json, json.dumps(made) + "\n")
        row = rows[cell.name]
        print(
            f"{count}/{len(chosen)} {' / '.join(cell.name)}:"
            f" {row['value']:.3f} ± {row['stderr']:.3f}, {row['seconds']:.2f} s each",
            flush=True,
        )


if __name__ == "__main__":
    main()
