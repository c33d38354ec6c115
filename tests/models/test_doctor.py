"""The report on what is here and what fits: sizes against real modules, estimates by hand."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.published_folders import published_files

from omni_diffusion.backbone.quantization import bytes_saved
from omni_diffusion.cli.main import main
from omni_diffusion.errors import ModelError
from omni_diffusion.io import config as configs
from omni_diffusion.models import doctor
from omni_diffusion.models.omni import OmniModel

CPU = torch.device("cpu")
PARTS = ["backbone", "image", "speech_encoder", "speech_tokenizer", "speech_flow"]


def test_the_published_parts_are_counted_without_weights() -> None:
    sizes = doctor.official()
    assert list(sizes.parts) == [*PARTS, "speech_vocoder", "speech_projector"]
    counts = {name: round(part.parameters / 1e6, 1) for name, part in sizes.parts.items()}
    assert counts["backbone"] == 7789.1
    assert counts["speech_encoder"] == 221.1
    assert sizes.parts["backbone"].bytes == 2 * sizes.parts["backbone"].parameters
    assert sizes.parts["image"].bytes == 4 * sizes.parts["image"].parameters
    assert sizes.bytes == sum(part.bytes for part in sizes.parts.values())
    assert (sizes.seen, sizes.made) == (1024, 256)


def test_a_folder_is_counted_as_it_opens() -> None:
    sizes, model = doctor.folder(), OmniModel.open()

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    found = {name: part.parameters for name, part in sizes.parts.items()}
    projector = count(model.backbone.model.audio_projection)
    assert found == {
        "backbone": count(model.backbone) - projector,
        "image": count(model.codecs.image),
        "speech_encoder": count(model.codecs.hearing),
        "speech_tokenizer": count(model.codecs.speech.tokenizer),
        "speech_flow": count(model.codecs.speech.flow),
        "speech_projector": projector,
    }


def test_a_published_folder_is_counted_as_it_opens(tmp_path: Path) -> None:
    made = published_files(tmp_path)
    for folder in (made.omni, made.dream):
        sizes, model = doctor.folder(folder, parts=made.parts), made.open(folder)
        modules = (model.backbone, *vars(model.codecs).values())
        counts = [
            sum(p.numel() for p in module.parameters())
            for module in modules
            if isinstance(module, torch.nn.Module)
        ]
        assert sum(part.parameters for part in sizes.parts.values()) == sum(counts)
        assert sizes.dtype == torch.bfloat16


@pytest.mark.parametrize("lost", ["config.json", "vocab.json", "model-00002", "tokenizer", None])
def test_half_a_published_folder_is_reported(
    lost: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = published_files(tmp_path)
    configs.save(made.parts.sizes, tmp_path / "sizes.json")
    names = ("image_codec", "speech_tokenizer", "speech_decoder")
    given = [f"--{name.replace('_', '-')}={getattr(made.parts, name)}" for name in names]
    given += [f"--cmvn={made.parts.hearing}", f"--sizes={tmp_path / 'sizes.json'}"]
    out = tmp_path / "report.json"
    if lost == "tokenizer":
        shutil.rmtree(tmp_path / "tokenizer")
    elif lost is not None:
        next(made.omni.glob(f"{lost}*")).unlink()
    words = ["omni-diffusion", "doctor", "--model", str(made.omni), *given, "--json", str(out)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr()
    assert "its files" in told.out
    assert "Traceback" not in told.err
    if lost == "config.json":  # the files are told, sizes cannot be
        assert ended.value.code == 2
        assert told.err.startswith("error: cannot read")
        return
    assert ended.value.code == 0
    missing = json.loads(out.read_text())["missing"]
    wanted = {"tokenizer": ["speech tokenizer: config.json", "speech tokenizer"], None: []}
    assert missing == wanted.get(lost) or [lost in name for name in missing] == [True]


def test_eight_bits_take_less_and_change_no_count() -> None:
    for whole, less in (
        (doctor.official(), doctor.official(quantization="int8")),
        (doctor.folder(), doctor.folder(quantization="int8")),
    ):
        assert {n: p.parameters for n, p in whole.parts.items()} == {
            n: p.parameters for n, p in less.parts.items()
        }
        saved = bytes_saved(whole.backbone, whole.dtype)
        assert whole.bytes - less.bytes == saved
        assert whole.parts["backbone"].bytes - less.parts["backbone"].bytes == saved
        assert 0.4 < saved / whole.parts["backbone"].bytes < 0.75


def test_needs_grow_with_batch_and_way_of_training() -> None:
    sizes = doctor.official()
    one, eight = (doctor.answering(sizes, 320, 256, batch) for batch in (1, 8))
    assert eight == 8 * one
    assert one > 256 * sizes.backbone.vocab_size * 6  # the logits alone
    full, lora, qlora = (doctor.training(sizes, how) for how in ("full", "lora", "qlora"))
    count = sizes.parts["backbone"].parameters
    assert full > 16 * count  # weights, gradients, float32 copy, two moments
    assert 2 * count < lora < 3 * count < full
    assert count // 2 < qlora < lora
    with pytest.raises(ModelError, match="no training is called 'half'"):
        doctor.training(sizes, "half")


def test_seconds_are_two_operations_for_each_weight_and_place() -> None:
    sizes = doctor.official()
    inner = sizes.parts["backbone"].parameters - 176_264 * 3584
    assert doctor.seconds(sizes, 320, 256, 1e15) == pytest.approx(2 * inner * 320 * 256 / 1e15)
    assert doctor.measured_rate(CPU, torch.float32, size=64) > 0


def test_fits_is_a_comparison_or_nothing() -> None:
    found = doctor.examine(doctor.folder(), CPU, [])
    assert set(found.expected) == {"t2i", "vqa", "asr", "tts"}
    for free, fits in ((0, False), (2**60, True), (None, None)):
        told = doctor.Diagnosis(**{**vars(found), "free": free})
        assert told.fits("training, full") is fits


def test_the_report_is_printed_and_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    monkeypatch.setattr("sys.argv", ["omni-diffusion", "doctor", "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "speech_flow" in said
    assert "training, qlora" in said
    told = json.loads(out.read_text())
    assert told["backbone"]["parameters"] == doctor.folder().parts["backbone"].parameters
    assert told["missing"] == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--preset", "huge"], "no sizes are called 'huge'"),
        (["--model", "nowhere"], "no model at nowhere"),
        (["--device", "abacus"], "device 'abacus' is of no use"),
        (["--json", "no/such/file.json"], "create it first"),
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
        main.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
