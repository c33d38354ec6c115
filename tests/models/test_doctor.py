"""The report of `doctor`: size against real modules, and estimates against formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.published_folders import write_published

from omni_diffusion.backbone.quantization import bytes_saved
from omni_diffusion.cli.main import main
from omni_diffusion.io import config as configs
from omni_diffusion.models import doctor
from omni_diffusion.models.omni import OmniModel
from omni_diffusion.models.sizes import (
    ModelSize,
    Work,
    forward_bytes,
    forward_flops,
    training_bytes,
)

CPU = torch.device("cpu")
PARTS = ["backbone", "image", "speech_encoder", "speech_tokenizer", "speech_flow"]


@pytest.fixture(scope="module")
def official() -> ModelSize:
    return doctor.official_size()


@pytest.mark.slow
def test_the_published_parts_are_counted_without_weights(official: ModelSize) -> None:
    size = official
    assert list(size.components) == [*PARTS, "speech_vocoder", "speech_projector"]
    counts = {name: round(part.parameters / 1e6, 1) for name, part in size.components.items()}
    assert counts["backbone"] == 7789.1
    assert counts["speech_encoder"] == 221.1
    assert size.components["backbone"].bytes == 2 * size.components["backbone"].parameters
    assert size.components["image"].bytes == 4 * size.components["image"].parameters
    assert size.bytes == sum(part.bytes for part in size.components.values())
    assert (size.understanding_tokens, size.generation_tokens) == (1024, 256)


@pytest.mark.slow
def test_a_folder_is_counted_as_it_opens() -> None:
    size, model = doctor.folder_size(), OmniModel.open()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    found = {name: part.parameters for name, part in size.components.items()}
    projector = count(model.backbone.model.audio_projection)
    assert found == {
        "backbone": count(model.backbone) - projector,
        "image": count(model.codecs.image),
        "speech_encoder": count(model.codecs.hearing),
        "speech_tokenizer": count(model.codecs.speech.tokenizer),
        "speech_flow": count(model.codecs.speech.flow),
        "speech_projector": projector,
    }


@pytest.mark.slow
def test_a_published_folder_is_counted_as_it_opens(tmp_path: Path) -> None:
    made = write_published(tmp_path)
    for folder in (made.omni, made.dream):
        size, model = doctor.folder_size(folder, codec_sources=made.sources), made.open(folder)
        modules = (model.backbone, *vars(model.codecs).values())
        counts = [
            sum(p.numel() for p in module.parameters())
            for module in modules
            if isinstance(module, torch.nn.Module)
        ]
        assert sum(part.parameters for part in size.components.values()) == sum(counts)
        assert size.dtype == torch.bfloat16


def exit_code() -> object:
    """The exit code of the command line of sys.argv."""
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["config.json", "vocab.json", "model-00002", "tokenizer", None])
def test_half_a_published_folder_is_reported(
    lost: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = write_published(tmp_path)
    configs.save(made.sources.sizes, tmp_path / "sizes.json")
    names = ("image_codec", "speech_tokenizer", "speech_decoder")
    given = [f"--{name.replace('_', '-')}={getattr(made.sources, name)}" for name in names]
    given += [
        f"--speech-encoder={made.sources.speech_encoder}",
        f"--sizes={tmp_path / 'sizes.json'}",
    ]
    out = tmp_path / "report.json"
    if lost == "tokenizer":
        shutil.rmtree(tmp_path / "tokenizer")
    elif lost is not None:
        next(made.omni.glob(f"{lost}*")).unlink()
    words = ["omni-diffusion", "doctor", "--model", str(made.omni), *given, "--json", str(out)]
    monkeypatch.setattr("sys.argv", words)
    code = exit_code()
    printed = capsys.readouterr()
    assert "files" in printed.out
    assert "Traceback" not in printed.err
    if lost == "config.json":  # files are listed, but there are no size
        assert code == 2
        assert printed.err.startswith("error: cannot read")
        return
    assert code == 0
    missing = json.loads(out.read_text())["missing"]
    wanted = {"tokenizer": ["speech tokenizer: config.json", "speech tokenizer"], None: []}
    assert missing == wanted.get(lost) or [lost in name for name in missing] == [True]


@pytest.mark.slow
def test_eight_bits_take_less_and_change_no_count(official: ModelSize) -> None:
    for whole, less in (
        (official, doctor.official_size(quantization="int8")),
        (doctor.folder_size(), doctor.folder_size(quantization="int8")),
    ):
        assert {n: p.parameters for n, p in whole.components.items()} == {
            n: p.parameters for n, p in less.components.items()
        }
        saved = bytes_saved(whole.backbone, whole.dtype)
        assert whole.bytes - less.bytes == saved
        assert whole.components["backbone"].bytes - less.components["backbone"].bytes == saved
        assert 0.4 < saved / whole.components["backbone"].bytes < 0.75


def test_memory_grows_with_batch_and_training_method(official: ModelSize) -> None:
    size = official
    one, eight = (forward_bytes(size, 320, 256, batch) for batch in (1, 8))
    assert eight == 8 * one
    assert one > 256 * size.backbone.vocab_size * 6  # the logits alone
    full, lora = training_bytes(size, "full"), training_bytes(size, "lora")
    count = size.components["backbone"].parameters
    assert full > 16 * count  # weights, gradients, float32 copy, two moments
    assert 2 * count < lora < 3 * count < full


def test_seconds_are_the_flops_of_a_forward_pass_for_each_masked_token(
    official: ModelSize,
) -> None:
    size = official
    flops = forward_flops(size.backbone, Work(320, 320, 256))
    assert doctor.seconds(size, 320, 256, 1e15) == pytest.approx(256 * flops / 1e15)
    weights = size.components["backbone"].parameters - 176_264 * 3584  # without the embeddings
    assert flops == pytest.approx(2 * weights * 320, rel=0.02)


def test_fits_is_a_comparison_or_nothing() -> None:
    found = doctor.diagnose(doctor.folder_size(), CPU, [])
    assert set(found.expected) == {"t2i", "vqa", "asr", "tts"}
    for free, fits in ((0, False), (2**60, True), (None, None)):
        report = doctor.Diagnosis(**{**vars(found), "free": free})
        assert report.fits("training, full") is fits


def test_the_report_is_printed_and_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    monkeypatch.setattr("sys.argv", ["omni-diffusion", "doctor", "--json", str(out)])
    assert exit_code() == 0
    printed = capsys.readouterr().out
    assert "speech_flow" in printed
    assert "training, lora" in printed
    report = json.loads(out.read_text())
    assert (
        report["backbone"]["parameters"] == doctor.folder_size().components["backbone"].parameters
    )
    assert report["missing"] == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--preset", "huge"], "'huge'; give official (--preset)"),
        (["--model", "nowhere"], "no model at nowhere"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--json", "no/such/file.json"], "no/such"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["omni-diffusion", "doctor", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
