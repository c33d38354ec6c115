"""The command line: demo, run, eval, doctor, train, convert, data.

Each command imports what it needs when it is called, so that --help and a mistyped option answer
at once. A user's mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_diffusion.errors import DataError, OmniError, TrainingError

if TYPE_CHECKING:
    from omni_diffusion.backbone.quantization import Quantization
    from omni_diffusion.data.sdvi.quality_filter import Judge
    from omni_diffusion.diffusion.params import SamplingParams
    from omni_diffusion.engine.request import Request, Result
    from omni_diffusion.media import Waveform
    from omni_diffusion.models.omni import OmniModel
    from omni_diffusion.models.upstream import Parts

NO_MEDIA = 1  # exit code of an answer without the picture or sound that the task is for
UNSOUND = 1  # exit code of a manifest that has errors

app = typer.Typer(
    help="One masked discrete diffusion model that reads and makes text, images and speech.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(
    help="Training data: import, check, speak, pretokenize.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
train_app = typer.Typer(help="Train: the small model, or any on your data.", no_args_is_help=True)
app.add_typer(train_app, name="train")

ModelFolder = Annotated[
    Path | None, typer.Option("--model", help="A model folder; default: the small one shipped.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Quantized = Annotated[
    str | None,
    typer.Option("--quantization", help="int8: the blocks' weights in 8 bits; needs torchao."),
]
ImageCodec = Annotated[
    str | None,
    typer.Option(
        "--image-codec",
        help="magvitv2: a folder, or owner/name[@revision]; default: on the hub.",
    ),
]
SpeechTokenizer = Annotated[
    str | None, typer.Option("--speech-tokenizer", help="glm-4-voice-tokenizer, likewise.")
]
SpeechDecoder = Annotated[
    str | None, typer.Option("--speech-decoder", help="glm-4-voice-decoder, likewise.")
]
Hearing = Annotated[
    str | None,
    typer.Option(
        "--cmvn", help="am.mvn, or SenseVoiceSmall's folder; Dream-7B needs its model.pt too."
    ),
]
SizesFile = Annotated[
    Path | None,
    typer.Option("--sizes", help="JSON of the codecs' sizes, where not the published ones."),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default: the task's own.")]
ImageFile = Annotated[Path | None, typer.Option("--image", help="A picture of any size.")]
SpeechFile = Annotated[Path | None, typer.Option("--speech", help="WAV, FLAC, OGG or MP3.")]


def main() -> None:
    """Run the command line; no traceback for a user's mistake."""
    try:
        app()
    except OmniError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to fill.")] = Path("demo-out"),
    image: ImageFile = None,
    speech: SpeechFile = None,
    text: Annotated[str | None, typer.Option(help="Your words.")] = None,
    steps: Steps = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Run every task on shipped inputs, and on yours, and show all of it on one page."""
    from omni_diffusion.demo.demo import present
    from omni_diffusion.demo.jobs import SHIPPED, yours
    from omni_diffusion.engine.handover import Named

    jobs = [*yours(Named(text, image, speech)), *SHIPPED]
    present(_open(model, device), jobs, out, steps=steps, seed=seed)


@app.command()
def run(
    task: Annotated[
        str,
        typer.Argument(
            help="chat, asr, tts, t2i, caption, vqa, s2i, svqa, sqa, inpaint or infill."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="The words; for infill, with _ for each unknown token.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The words, another way.")] = None,
    image: ImageFile = None,
    speech: SpeechFile = None,
    mask: Annotated[
        str | None,
        typer.Option(help="For inpaint: left,top,right,bottom, or a picture with a white hole."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="For a picture or sound; default: TASK.png or TASK.wav.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write what each step committed, as JSON.")
    ] = None,
    steps: Steps = None,
    length: Annotated[
        int | None, typer.Option(help="Places of the answer; default: the task's own rule.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Weight of classifier-free guidance; 0 is off.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="Whose surest places come first: entropy, margin, max_probability."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="official: the paper's settings; upstream: the published code's."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
    quantization: Quantized = None,
) -> None:
    """Run one task on your own files: words to stdout, a picture or sound to a file."""
    from dataclasses import replace

    from omni_diffusion.engine import handover
    from omni_diffusion.engine.request import Request
    from omni_diffusion.tasks import catalog, presets
    from omni_diffusion.tasks.chunking import spoken_passages

    if prompt is not None and text is not None:
        raise typer.BadParameter("give the words once, as PROMPT or as --text")
    asked = {"steps": steps, "seed": seed, "guidance": guidance, "confidence": sampler}
    changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    # All that can be checked without a model comes first.
    found = catalog.task(task)
    setting = None if preset is None else presets.preset(preset).of(task)
    replace(found.params, **changes)
    named = handover.Named(text if prompt is None else prompt, image, speech, mask)
    drafts = handover.conversation(found, named)
    path = handover.plan_out(found, out)
    if trace is not None:
        handover.in_a_folder(trace)
    opened = _open(model, device, quantization)
    handover.check_size(drafts, opened.max_positions)
    params = replace(opened.sampling.get(task, found.params), **changes) if changes else None
    if setting is not None:
        settled, length = setting.settle(drafts, opened, length)
        params = replace(settled, **changes)
    if task == "tts" and named.text and path and not (setting or length or trace):
        passages = spoken_passages(named.text, opened, most=opened.config.generation.longest)
        if len(passages) > 1:
            _recite(opened, passages, params).write(path)
            typer.echo(f"wrote {path}, spoken in {len(passages)} passages", err=True)
            return
    result = _answer(opened, Request(task, drafts, params, length, trace is not None))
    if trace is not None:
        handover.write_trace(result, trace)
    _hand_back(result, path, handover.notes(drafts))


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Argument(help="What to measure: mini.")],
    seed: Annotated[int, typer.Option(help="The same seed asks the same questions.")] = 0,
    samples: Annotated[int, typer.Option(help="Questions of each task.")] = 100,
    tasks: Annotated[
        str | None, typer.Option(help="Only these, with commas: caption,vqa,t2i.")
    ] = None,
    steps: Steps = None,
    json: Annotated[Path | None, typer.Option(help="Write the scores to this file.")] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Measure a model on samples that its training never showed."""
    from rich.console import Console

    from omni_diffusion.engine import handover
    from omni_diffusion.errors import EvaluationError
    from omni_diffusion.evaluation import report
    from omni_diffusion.mini import benchmark

    if suite != "mini":
        raise EvaluationError(f"no evaluation is called {suite!r}; give mini")
    if json is not None:
        handover.in_a_folder(json)
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    waiting = Console(stderr=True)
    with waiting.status("opening the model") as status:
        scores = benchmark.evaluate(
            _open(model, device),
            seed,
            samples,
            names,
            steps,
            lambda name, done, total: status.update(f"{name}: {done} of {total}"),
        )
    Console().print(report.table(scores))
    if json is not None:
        report.save(scores, json)


@app.command()
def doctor(
    model: ModelFolder = None,
    preset: Annotated[
        str | None, typer.Option(help="official: the published sizes, without any weights.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    device: Device = "cpu",
    quantization: Quantized = None,
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    cmvn: Hearing = None,
    sizes: SizesFile = None,
) -> None:
    """Say what is here, what is missing, whether a model fits, and about how long it takes.

    The folder is ours or a published one; of the latter's other parts what is here is told too.
    """
    from rich.console import Console

    from omni_diffusion.engine import handover
    from omni_diffusion.errors import ModelError
    from omni_diffusion.io import files
    from omni_diffusion.models import doctor as doctors
    from omni_diffusion.models import files as inventory
    from omni_diffusion.models.omni import SHIPPED, place_of

    if preset not in (None, "official"):
        raise ModelError(f"no sizes are called {preset!r}; give official, or --model FOLDER")
    if preset is not None and model is not None:
        raise typer.BadParameter("give --preset or --model, not both")
    if json is not None:
        handover.in_a_folder(json)
    place = place_of(device)
    how = _quantization(quantization)
    folder, listed, screen = model or SHIPPED, [], Console()
    if preset:
        reckoned = doctors.official(quantization=how)
    else:
        if not folder.is_dir():
            raise ModelError(f"no model at {folder}; give a folder, ours or a published one")
        parts = _parts(image_codec, speech_tokenizer, speech_decoder, cmvn, sizes)
        listed = inventory.entries(folder, parts)
        screen.print(doctors.inventory(listed))  # first: what follows needs the config.json
        reckoned = doctors.folder(folder, quantization=how, parts=parts)
    found = doctors.examine(reckoned, place, listed)
    for table in doctors.tables(found):
        screen.print(table)
    if json is not None:
        files.write_text(json, doctors.text_of(found))


@train_app.command("mini")
def train_mini(
    out: Annotated[Path, typer.Option(help="The folder for all that is made; resumed if there.")],
    bank: Annotated[Path, typer.Option(help="The spoken sentences, made by `make voices`.")],
) -> None:
    """Train the small model from nothing: codecs, then the three stages."""
    from omni_diffusion.mini import recipe

    recipe.train(out, bank)


@train_app.command("manifest")
def train_manifest(
    data: Annotated[
        list[Path],
        typer.Option(help="A manifest, or a folder of data pretokenize; may be given again."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for all that is made; resumed if there.")],
    model: ModelFolder = None,
    stage: Annotated[
        int | None, typer.Option(help="1, 2 or 3: rate, mix and loss of the paper's stage.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    samples: Annotated[
        int | None, typer.Option(help="Of a step, about; default: 32, of a stage 128.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest rate; default: the stage's; 1e-5, by LoRA 1e-4.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up; default: a tenth, 100 at most.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.0,
    mix: Annotated[
        str | None, typer.Option(help="How often each task comes: t2i=4,asr=1; others never.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Rank: train factors beside the weights; needs peft.")
    ] = None,
    trainable: Annotated[
        list[str] | None,
        typer.Option(help="Names of weights to train, with *; may be given again."),
    ] = None,
    masking: Annotated[
        str,
        typer.Option(help="uniform (the paper), antithetic, cosine, per_token (published code)."),
    ] = "uniform",
    gamma: Annotated[float, typer.Option(help="Padding is masked at gamma times the ratio.")] = 0.6,
    weighting: Annotated[
        str, typer.Option(help="Of masked places: plain (the paper), elbo (1/t), per_length.")
    ] = "plain",
    balance: Annotated[
        str | None, typer.Option(help="The loss is a mean over: token (a stage's default), task.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of matrix products: float32, bfloat16.")
    ] = "float32",
    max_length: Annotated[
        int | None, typer.Option(help="Places of a packed row; default: 3072, or the model's.")
    ] = None,
    micro_places: Annotated[
        int | None, typer.Option(help="Places of a micro-batch, a row at least; default: a row's.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option(help="Compute activations again on the way back: less memory.")
    ] = False,
    average: Annotated[
        float, typer.Option(help="Decay of the average of weights that ships; 0 ships the last.")
    ] = 0.999,
    most_bad: Annotated[
        float, typer.Option(help="Share of drawn samples that may be broken or too long.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Of order and masking.")] = 0,
    resume: Annotated[
        str, typer.Option(help="auto: from the newest state of OUT, if any; or a state's folder.")
    ] = "auto",
    log_every: Annotated[int, typer.Option(help="Steps between rows of figures.")] = 10,
    save_steps: Annotated[
        int | None, typer.Option(help="Save after so many steps, beside every ten minutes.")
    ] = None,
    keep: Annotated[int, typer.Option(help="So many states are kept.")] = 2,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help="page, tensorboard, wandb, none; default: page, tensorboard if there."),
    ] = None,
    sample_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between answers to a sample of each task; 0: none; default: 5 in all."
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a model further on your own data, whole or by LoRA, on one process or many.

    Many: torchrun --nproc_per_node 8 -m omni_diffusion train manifest ... --device cuda
    """
    from omni_diffusion.io import config
    from omni_diffusion.training import finetune, logs
    from omni_diffusion.training.distributed import World
    from omni_diffusion.training.stages import BATCH

    asked = {
        "data": [str(path) for path in data],
        "model": model and str(model),
        "stage": stage,
        "steps": steps,
        "samples": (32 if stage is None else BATCH) if samples is None else samples,
        "lr": lr,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "mix": _ratios(mix),
        "lora": lora,
        "trainable": trainable or ["*"],
        "masking": masking,
        "gamma": gamma,
        "weighting": weighting,
        "balance": balance,
        "precision": precision,
        "max_length": max_length,
        "micro_places": micro_places,
        "checkpointing": checkpointing,
        "average": average or None,
        "most_bad": most_bad,
        "seed": seed,
    }
    plan = config.from_dict(finetune.Plan, asked, "the run")
    shown = report_to != ["none"]
    saving = finetune.Saving(
        log_every,
        save_steps=save_steps,
        keep=keep,
        logs=tuple(report_to or logs.usual()) if shown else (),
        sample_every=max(1, steps // 5) if sample_every is None else sample_every or None,
        measure=shown,
    )
    bad: set[str] = set()
    world = World.join(device)
    with _bar("training", shown=world.first) as show:
        finetune.train(
            plan,
            out,
            saving=saving,
            resume=None if resume == "auto" else Path(resume),
            world=world,
            report=lambda step, _: show(step / steps),
            told=bad.add,
        )
    for line in sorted(bad):
        typer.echo(f"left out: {line}", err=True)
    if world.first:
        typer.echo(f"wrote {out / 'model'}", err=True)
    world.leave()


def _ratios(mix: str | None) -> dict[str, float]:
    """Task names with numbers, "t2i=4,asr=1"."""
    found = {}
    for part in mix.split(",") if mix else ():
        task, _, ratio = part.partition("=")
        try:
            found[task.strip()] = float(ratio)
        except ValueError:
            raise TrainingError(
                f"the mix has {part!r}; give tasks with numbers, such as t2i=4,asr=1"
            ) from None
    return found


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="Omni-Diffusion or Dream-7B: a folder, or owner/name on the hub.")
    ],
    out: Annotated[
        Path, typer.Argument(help="The folder to write, new or empty, in our own layout.")
    ],
    image_codec: ImageCodec = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    cmvn: Hearing = None,
    sizes: SizesFile = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="The backbone's: bfloat16, float16, float32; default: as published."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of SOURCE on the hub.")] = None,
) -> None:
    """Bring published files into one folder that --model takes."""
    from omni_diffusion.errors import ModelError
    from omni_diffusion.models import omni as models
    from omni_diffusion.models import upstream

    if dtype is not None and dtype not in upstream.DTYPES:
        raise typer.BadParameter(f"dtype is {dtype!r}; give one of {', '.join(upstream.DTYPES)}")
    if Path(source).resolve() == out.resolve():
        raise ModelError(f"{out} is the folder to convert; give another one to write")
    parts = _parts(image_codec, speech_tokenizer, speech_decoder, cmvn, sizes)
    wanted = None if dtype is None else upstream.DTYPES[dtype]
    models.convert(source, out, parts=parts, dtype=wanted, revision=revision)
    typer.echo(f"wrote {out}", err=True)


def _parts(
    image_codec: str | None,
    speech_tokenizer: str | None,
    speech_decoder: str | None,
    cmvn: str | None,
    sizes: Path | None,
) -> Parts:
    """Where a published folder's other parts are, by default on the hub."""
    from omni_diffusion.io import config
    from omni_diffusion.models import upstream

    places: dict[str, Any] = {
        "image_codec": image_codec,
        "speech_tokenizer": speech_tokenizer,
        "speech_decoder": speech_decoder,
        "hearing": cmvn,
        "sizes": sizes and config.load(upstream.Sizes, sizes),
    }
    return upstream.Parts(**{name: place for name, place in places.items() if place is not None})


@data_app.command("check")
def check_data(
    manifest: Annotated[Path, typer.Argument(help="JSONL: one sample a line.")],
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: the manifest's folder."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Read media whole, not their headers alone: slow.")
    ] = False,
    max_seconds: Annotated[float, typer.Option(help="The longest sound.")] = 180.0,
    most: Annotated[int, typer.Option(help="Problems to show; --json has all.")] = 100,
) -> None:
    """Look for mistakes in a manifest, line by line, and count what is in it."""
    from json import dumps

    from rich.console import Console

    from omni_diffusion.data import stats as reports
    from omni_diffusion.data.validate import Limits, check
    from omni_diffusion.engine import handover
    from omni_diffusion.io import files

    if json is not None:
        handover.in_a_folder(json)
    limits = Limits(max_seconds=max_seconds)
    with _bar(manifest.name) as show:
        found = check(manifest, root, limits=limits, decode=decode, progress=show)
    for problem in found.problems[:most]:
        typer.echo(problem)
    if len(found.problems) > most:
        typer.echo(f"and {len(found.problems) - most} more: --most or --json shows them")
    for table in reports.tables(found):
        Console().print(table)
    if json is not None:
        files.write_text(json, dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    if found.errors:
        raise typer.Exit(UNSOUND)


@data_app.command("import")
def import_data(
    name: Annotated[
        str,
        typer.Argument(
            help="librispeech, libritts, common-voice, gigaspeech, llava-onevision, blip3o, tulu-3"
            " or voiceassistant."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The corpus's folder, as it was unpacked.")],
    out: Annotated[Path, typer.Argument(help="The folder to fill; resumed if it was begun.")],
    split: Annotated[
        str | None, typer.Option(help="A part of the corpus alone, by the corpus's own name.")
    ] = None,
) -> None:
    """Write a public corpus as a manifest; media stay where they are, or leave their archives."""
    from omni_diffusion.data.importers.catalog import importer
    from omni_diffusion.data.importers.run import MANIFEST, SKIPPED, run

    with _bar(name) as show:
        record = run(importer(name), source, out, split, show)
    typer.echo(f"wrote {out / MANIFEST}: {record.samples} samples", err=True)
    if record.skipped:
        typer.echo(f"note: {record.skipped} rows are no samples, see {out / SKIPPED}", err=True)


@data_app.command("sdvi")
def sdvi_data(
    out: Annotated[Path, typer.Argument(help="The folder to fill; resumed if it was begun.")],
    synthesizer: Annotated[
        str,
        typer.Option(
            help="What speaks: a command line with {voice}, {out} and, if it does not read its"
            " input, {text}; or package.module:name key=value .."
        ),
    ],
    vqa: Annotated[
        Path | None, typer.Option(help="JSONL: written questions about pictures.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="JSONL: captions with their pictures, as for t2i.")
    ] = None,
    voice: Annotated[
        list[str] | None, typer.Option(help="Who asks; give it as often as you like.")
    ] = None,
    voices: Annotated[Path | None, typer.Option(help="A file of more, one a line.")] = None,
    answer_voice: Annotated[
        str | None, typer.Option(help="Who says all answers; default: the first voice.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws each question's voice.")] = 0,
    again: Annotated[
        int, typer.Option(help="Further voices for a question that came out badly.")
    ] = 2,
    hear: Annotated[
        bool, typer.Option("--hear/--no-hear", help="Let Whisper base listen to all of it.")
    ] = True,
    most_errors: Annotated[
        float, typer.Option(help="Share of a text's words that may be misheard.")
    ] = 0.2,
    max_seconds: Annotated[float, typer.Option(help="The longest sound.")] = 60.0,
    later_turns: Annotated[
        bool, typer.Option("--later-turns", help="All questions of a conversation, not the first.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: each manifest's folder."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that speak and listen.")] = 1,
    shard: Annotated[
        int | None, typer.Option(help="Make this share alone, counted from 0; default: all.")
    ] = None,
    of: Annotated[int, typer.Option(help="How many shares.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a command may take for a text.")] = 120.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Say again what the synthesizer failed at.")
    ] = False,
) -> None:
    """Speak written questions, answers and captions of pictures, and check what was said."""
    from shlex import join

    from omni_diffusion.data.sdvi.build import LEFT, MANIFEST, Builder, Voices, voices_of
    from omni_diffusion.data.sdvi.quality_filter import Gate
    from omni_diffusion.data.sdvi.sources import Sources
    from omni_diffusion.data.sdvi.synthesizer import Synthesizer
    from omni_diffusion.errors import DataError

    if vqa is None and captions is None:
        raise DataError("there is nothing to speak; give --vqa, --captions or both")
    asking = [*(voice or ()), *(voices_of(voices) if voices is not None else ())]
    if not asking:
        raise DataError("there is nobody to speak; give --voice or --voices")
    builder = Builder(
        Sources(vqa, captions, root, later_turns),
        out,
        Synthesizer.named(synthesizer, timeout),
        Voices(asking, answer_voice or asking[0], seed, again),
        _whisper() if hear else None,
        Gate(most_errors=most_errors, max_seconds=max_seconds),
        retry_failed,
        join(["omni-diffusion", *sys.argv[1:]]),
    )
    with _bar(out.name) as show:
        done = builder.run(shard, of, workers, show)
    typer.echo(f"said {done.made} texts", err=True)
    if done.missing:
        typer.echo(f"note: {done.missing} lines are left for the other shares", err=True)
        return
    typer.echo(f"wrote {out / MANIFEST}: {done.samples} samples", err=True)
    if done.left:
        typer.echo(f"note: {len(done.left)} lines are left out, see {out / LEFT}", err=True)


def _whisper() -> Judge:
    """Whisper base as a judge of synthesized speech; raises EvaluationError where it is not."""
    from omni_diffusion.data.sdvi.quality_filter import Judge
    from omni_diffusion.evaluation.speech import RECOGNISING, SCORING, WhisperJudge, require
    from omni_diffusion.evaluation.speech import word_errors as compared

    require(*SCORING, *RECOGNISING)

    def errors(text: str, heard: str) -> tuple[int, int]:
        mark = compared(text, heard)
        return mark.amount, mark.of

    return Judge("Whisper base", lambda: WhisperJudge.open().transcribe, errors)


@data_app.command("pretokenize")
def pretokenize_data(
    manifest: Annotated[Path, typer.Argument(help="JSONL: one sample a line.")],
    out: Annotated[Path, typer.Argument(help="The folder of the shards; resumed if begun.")],
    shard: Annotated[
        int | None, typer.Option(help="Make this one alone, counted from 0; default: all.")
    ] = None,
    of: Annotated[
        int | None, typer.Option(help="How many shards; default: one for each 4,096 lines.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="What paths are relative to; default: the manifest's folder."),
    ] = None,
    most_bad: Annotated[
        float, typer.Option(help="The share of a shard's lines that may be broken.")
    ] = 0.01,
    batch: Annotated[
        int, typer.Option(help="Lines whose pictures are encoded together; changes no code.")
    ] = 8,
    workers: Annotated[int, typer.Option(help="Threads that read media ahead.")] = 4,
    ray: Annotated[
        str | None,
        typer.Option(help="Spread the shards over a Ray cluster: auto, local or its address."),
    ] = None,
    model: ModelFolder = None,
    device: Device = "cpu",
) -> None:
    """Turn a manifest's pictures and speech into codes, once, by a model's codecs."""
    from omni_diffusion.data import pretokenize_ray
    from omni_diffusion.data.shard_store import INDEX
    from omni_diffusion.io.optional import need
    from omni_diffusion.models.omni import SHIPPED

    need("pyarrow", "data")
    if ray is not None and shard is not None:
        raise DataError(f"--ray makes all shards, --shard {shard} one; give one of the two")
    order = pretokenize_ray.Order(
        manifest, out, model or SHIPPED, device, root, most_bad, batch, workers
    )
    with _bar(manifest.name) as show:
        if ray is None:
            records = order.worker().run(shard, of, show)
        else:
            records = pretokenize_ray.run(order, of, ray, show)
    skipped = [line for record in records for line in record.skipped]
    for line in skipped:
        typer.echo(f"left out: {line}", err=True)
    rows = sum(record.rows for record in records)
    told = f"{len(records)} of {records[0].of} shards in {out}: {rows} samples"
    typer.echo(f"{told}, {len(skipped)} left out", err=True)
    if not (out / INDEX).exists():
        typer.echo("note: the index is written when all shards are there", err=True)


def _open(folder: Path | None, device: str, quantization: str | None = None) -> OmniModel:
    from omni_diffusion.models.omni import OmniModel

    return OmniModel.open(folder, device, quantization=_quantization(quantization))


def _quantization(name: str | None) -> Quantization | None:
    """A quantization by its name; raises ModelError for another."""
    from omni_diffusion.backbone.quantization import quantization

    return None if name is None else quantization(name)


@contextmanager
def _bar(name: str, *, shown: bool = True) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, moved by the share that is done."""
    from rich import progress as rich
    from rich.console import Console

    screen = Console(stderr=True)
    with rich.Progress(
        console=screen, transient=True, disable=not (shown and screen.is_terminal)
    ) as bars:
        bar = bars.add_task(name, total=1.0)
        yield lambda share: bars.update(bar, completed=share)


def _answer(model: OmniModel, request: Request) -> Result:
    """Run one request; raises what befell it."""
    from omni_diffusion.engine.engine import Engine

    with _bar(request.task_name) as show:
        (result,) = Engine(model).run([request], lambda progress: show(progress.share))
    if result.error is not None:
        raise result.error
    return result


def _recite(model: OmniModel, passages: Sequence[str], params: SamplingParams | None) -> Waveform:
    """Speak a text that is too long for one canvas."""
    from omni_diffusion.engine.engine import Engine
    from omni_diffusion.engine.long_speech import recite_passages

    with _bar("tts") as show:
        return recite_passages(
            Engine(model), passages, params, progress=lambda progress: show(progress.share)
        )


def _hand_back(result: Result, path: Path | None, notes: list[str]) -> None:
    """Words to stdout, media to `path`, everything else to stderr."""
    from omni_diffusion.engine import handover

    words = handover.text_of(result.parts)
    if words:
        typer.echo(words)
    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}", err=True)
    if path is not None:
        if not handover.write_media(result.parts, path):
            raise typer.Exit(NO_MEDIA)
        typer.echo(f"wrote {path}", err=True)
    typer.echo(f"{result.steps} steps in {result.seconds:.2f} s", err=True)
