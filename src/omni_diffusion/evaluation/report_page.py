"""The report of evaluations: one self-contained HTML page, and the same tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from omni_diffusion import html
from omni_diffusion.errors import EvaluationError, MediaError
from omni_diffusion.evaluation.plots import PlotPoint, PlotSeries, bar_plot, line_plot
from omni_diffusion.evaluation.predictions import Prediction, parts_of
from omni_diffusion.evaluation.report import known_suite, shown_value
from omni_diffusion.evaluation.results import EvaluationRecord, find_records, kept_predictions
from omni_diffusion.evaluation.scoring import BenchmarkResult, Metric
from omni_diffusion.evaluation.suites.sampling_efficiency import SWEEP
from omni_diffusion.io import files

Records = Mapping[Path, EvaluationRecord]
COLUMNS = ("benchmark", "setting", "metric", "value", "± stderr", "n", "paper", "ICML")
COSTS = ("passes", "s / answer", "s / s of speech")
GALLERY = 6  # answers shown of each evaluation
ERROR_RATES = ("wer", "capped", "utterance_mean")

REPORT_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation</title>
<style>
$style
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
.scroll { overflow-x: auto; }
.plot { width: 100%; max-width: 34rem; height: auto; display: block; }
.plot text { font: 12px system-ui, sans-serif; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1rem 2rem; margin: 1rem 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.gallery article { border: 1px solid var(--line); border-radius: .7rem; padding: .8rem; }
.gallery h3 { margin-top: .7rem; }
.gallery h3:first-child { margin-top: 0; }
.right { border-left: 4px solid var(--image) !important; }
.wrong { border-left: 4px solid #c8372d !important; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem;
  margin: .6rem 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .8rem 0 .4rem; font-weight: 600; }
.sound svg { cursor: auto; }
</style>
</head>
<body>
<h1>Evaluation of $models</h1>
<p class="quiet">$facts</p>
<section class="card"><header><h2>Results</h2></header>
<div class="scroll">$table</div>
<p class="note">± is the standard error: binomial for right and wrong answers, else a bootstrap over
answers. paper and ICML: the figures of both versions of the paper, where it has them.</p></section>
$sweeps
$cards
</body>
</html>
""")


def write_report(roots: Iterable[Path], page: Path) -> tuple[Path, Path]:
    """Write the report of all finished evaluations below `roots`.

    page: the HTML file; a Markdown file of the same name goes beside it. Returns both paths. Raises
    EvaluationError where there is no finished evaluation.
    """
    roots = list(roots)
    records = find_records(roots)
    if not records:
        raise EvaluationError(
            f"no finished evaluation in {', '.join(map(str, roots))}",
            field="runs",
            value=[str(root) for root in roots],
            fix="give folders that `omni-diffusion eval` wrote",
        )
    markdown = page.with_suffix(".md")
    files.write_text(page, html_report(records))
    files.write_text(markdown, markdown_report(records))
    return page, markdown


def html_report(records: Records) -> str:
    """The page, with pictures, sounds and plots inside of it."""
    cards = [_card(folder, record, i) for i, (folder, record) in enumerate(records.items())]
    return REPORT_PAGE.substitute(
        models=escape(", ".join(_models(records))),
        facts=escape(_facts(records)),
        style=html.style(),
        table=_html_table([*COLUMNS, *COSTS], _rows(records)),
        sweeps="\n".join(_sweep_cards(records)),
        cards="\n".join(cards),
    )


def markdown_report(records: Records) -> str:
    """The tables, settings and hardware as Markdown."""
    lines = [f"# Evaluation of {', '.join(_models(records))}", "", _facts(records), ""]
    lines += [markdown_table([*COLUMNS, *COSTS], _rows(records)), "", "## Settings", ""]
    for folder, record in records.items():
        lines.append(f"- **{record.settings.benchmark}**, {_setting(record)}: `{folder.name}`")
        described = {**_settings(record), **record.environment}
        lines += [f"  - {name}: {value}" for name, value in described.items()]
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first three columns are text, the others numbers."""
    rule = ["---" if i < 3 else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _rows(records: Records) -> list[list[str]]:
    """A row for each metric of the paper, and for the value of any other benchmark."""
    rows = []
    for record in records.values():
        metrics, paper = _metrics(record), _paper_figures(record)
        unit = _result(record).get("unit", "percent")
        for i, (name, metric) in enumerate(metrics.items()):
            known = ["" if figure is None else f"{figure:g}" for figure in paper.get(name, ())]
            rows.append(
                [
                    record.settings.benchmark if i == 0 else "",
                    _setting(record) if i == 0 else "",
                    name,
                    shown_value(metric["value"], unit),
                    shown_value(metric["stderr"], unit),
                    str(metric["n"]),
                    *(known or ["", ""]),
                    *(_costs(record) if i == 0 else ["", "", ""]),
                ]
            )
    return rows


def _metrics(record: EvaluationRecord) -> dict[str, Metric]:
    """The metrics of the table: those that the catalog names, else the value alone."""
    result, entry = _result(record), known_suite(record.settings.benchmark)
    value = Metric(value=result["value"], stderr=result["stderr"], n=result["n"])
    if entry is None:
        return {"value": value}
    found = {entry.metrics[0]: value} | result.get("details", {})
    return {name: found[name] for name in entry.metrics if name in found}


def _paper_figures(
    record: EvaluationRecord,
) -> Mapping[str, tuple[float | None, float | None]]:
    """The paper's figures at these steps, else those of its main table."""
    settings = record.settings
    for point in SWEEP:
        here = (point.benchmark, dict(point.overrides), point.pace)
        there = (settings.benchmark, settings.overrides, settings.options.get("pace"))
        if here == there and point.paper:
            return point.paper
    entry = known_suite(settings.benchmark)
    plain = not settings.overrides and not settings.options
    return entry.paper if entry is not None and plain else {}


def _setting(record: EvaluationRecord) -> str:
    """Preset and overrides in a few words."""
    settings = record.settings
    changes = {**settings.overrides, **{k: v for k, v in settings.options.items() if k == "pace"}}
    words = [settings.preset or "model", *(f"{name} {value}" for name, value in changes.items())]
    return ", ".join(words)


def _costs(record: EvaluationRecord) -> list[str]:
    costs = record.costs
    if costs is None:
        return ["", "", ""]
    real_time = "" if costs.real_time is None else f"{costs.real_time:.3g}"
    return [f"{costs.forward_passes:.1f}", f"{costs.seconds:.3g}", real_time]


def _settings(record: EvaluationRecord) -> dict[str, str]:
    settings = record.settings
    listed = {
        "model": f"{record.model['name']}, digest {record.model['digest']}",
        "preset": settings.preset or "the model's own sampling",
        "overrides": _listed(settings.overrides) or "none",
        "judges": _listed(settings.judges) or "none",
        "options": _listed(settings.options) or "none",
        "batch": str(record.batch),
    }
    if record.costs is not None:
        listed["answers"] = f"{record.costs.n}, {record.costs.latency:.3g} s from start to end each"
    return listed


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _models(records: Records) -> list[str]:
    return list(dict.fromkeys(record.model["name"] for record in records.values()))


def _facts(records: Records) -> str:
    commits = dict.fromkeys(record.environment.get("commit", "") for record in records.values())
    machines = dict.fromkeys(
        record.environment.get("gpu") or record.environment.get("cpu", "")
        for record in records.values()
    )
    return f"{len(records)} evaluations · commit {', '.join(commits)} · {'; '.join(machines)}"


def _result(record: EvaluationRecord) -> BenchmarkResult:
    assert record.result is not None  # `find_records` returns finished ones
    return record.result


# ------------------------------------------------------------------------------------------ sweeps
def _sweep_cards(records: Records) -> list[str]:
    """Quality by forward passes and by seconds, where a benchmark ran at several step counts."""
    groups: dict[tuple[str, str], list[EvaluationRecord]] = {}
    for record in records.values():
        key = (record.settings.benchmark, record.model["digest"])
        groups.setdefault(key, []).append(record)
    return [_sweep(name, group) for (name, _), group in groups.items() if len(group) > 2]


def _sweep(name: str, group: Sequence[EvaluationRecord]) -> str:
    unit = _result(group[0]).get("unit", "percent")
    entry = known_suite(name)
    metric = entry.metrics[0] if entry else "value"
    plots = []
    for label, cost in (("forward passes", "forward_passes"), ("seconds an answer", "seconds")):
        points = [
            PlotPoint(getattr(each.costs, cost), _result(each)["value"], _result(each)["stderr"])
            for each in group
            if each.costs is not None and getattr(each.costs, cost) > 0
        ]
        series = [PlotSeries(name, points)]
        drawn = line_plot(series, label, metric, log_x=True, percent=unit == "percent")
        plots.append(f"<figure>{drawn}</figure>")
    return (
        f'<section class="card"><header><h2>{escape(name)} by steps</h2></header>'
        f'<div class="plots">{"".join(plots)}</div></section>'
    )


# ------------------------------------------------------------------------------------------- cards
def _card(folder: Path, record: EvaluationRecord, number: int) -> str:
    """One evaluation: its parts as bars, its settings and some of its answers."""
    result = _result(record)
    unit = result.get("unit", "percent")
    bars = [
        (name, metric["value"], metric["stderr"])
        for name, metric in result.get("details", {}).items()
    ]
    plot = bar_plot(bars, "details", percent=unit == "percent") if bars else ""
    ceiling = f" · ceiling {shown_value(result['ceiling'], unit)}" if "ceiling" in result else ""
    described = {**_settings(record), **record.environment}
    listed = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in described.items()
    )
    shown = _chosen(kept_predictions(folder))
    items = "".join(_item(folder, each, f"r{number}-{i}") for i, each in enumerate(shown))
    gallery = f'<div class="gallery">{items}</div>' if items else ""
    return f"""<article class="card"><header><h2>{escape(record.settings.benchmark)}</h2>
<span class="quiet">{escape(_setting(record))} · {shown_value(result["value"], unit)} ±
{shown_value(result["stderr"], unit)} of {result["n"]}{ceiling}</span></header>
{plot}
<details><summary>Settings and hardware</summary><dl>{listed}</dl></details>
{gallery}</article>"""


def _chosen(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The first answers whose prompts were kept; a lone kind of outcome gives way to the other."""
    shown = [each for each in predictions if each.prompt]
    right = [each for each in shown if _right(each)]
    wrong = [each for each in shown if not _right(each)]
    some = max(GALLERY // 2, GALLERY - len(wrong))
    picked = [*right[:some], *wrong[: GALLERY - min(some, len(right))]]
    return [each for each in shown if each in picked]


def _right(prediction: Prediction) -> bool:
    """Whether the value is whole, or an error rate 0."""
    amount, of = prediction.scores.get("value", (0, 1))
    if any(name in prediction.scores for name in ERROR_RATES) or of != 1:
        return amount == 0
    return amount >= 1


def _item(folder: Path, prediction: Prediction, key: str) -> str:
    """A prompt, what is expected and the answer, with its score."""
    try:
        asked = html.parts(parts_of(prediction.prompt, folder), f"{key}-in")
        between = html.parts(parts_of(prediction.via, folder), f"{key}-via")
        answer = html.parts(parts_of(prediction.answer, folder), f"{key}-out")
    except MediaError as error:
        return f'<article><p class="note fault">{escape(str(error))}</p></article>'
    expected = prediction.facts.get("answer") or prediction.facts.get("expected") or ""
    amount, of = prediction.scores.get("value", (0, 1))
    fault = f'<p class="note fault">{escape(prediction.error)}</p>' if prediction.error else ""
    middle = f"<h3>Between</h3>{between}" if between else ""
    wanted = f"<h3>Expected</h3><p>{escape(str(expected))}</p>" if expected else ""
    return f"""<article class="{"right" if _right(prediction) else "wrong"}">
<h3>Prompt</h3>{asked}{wanted}{middle}<h3>Answer</h3>{answer}{fault}
<p class="note">score {amount:.4g} of {of:g} · {prediction.steps} passes ·
{prediction.seconds:.3g} s</p></article>"""


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"
