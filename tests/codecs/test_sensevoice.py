"""SenseVoice against the published numbers (every sub-module), its names, and its refusals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.sensevoice import (
    OMNI_PREFIX,
    SenseVoice,
    SenseVoiceConfig,
    stacked_features,
)
from omni_diffusion.codecs.sensevoice_encoder import sinusoids
from omni_diffusion.errors import ConfigError, MediaError, ModelError, WeightsError
from omni_diffusion.media import Resampling, Waveform

TINY = SenseVoiceConfig(dim=64, ffn=128, blocks=3, tp_blocks=2, ctc_size=40)
QUERIES = 4


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "encoders"


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "sensevoice_tiny_io.safetensors")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tiny weights under the names of the Omni-Diffusion checkpoint, without the adapter."""
    tensors = load_file(folder / "sensevoice_tiny_weights.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith(OMNI_PREFIX)}


@pytest.fixture(scope="module")
def cmvn(folder: Path) -> Tensor:
    return fbank.read_cmvn(folder / "sensevoice_synthetic_am.mvn")


@pytest.fixture(scope="module")
def model(checkpoint: dict[str, Tensor], cmvn: Tensor) -> SenseVoice:
    return SenseVoice.load(checkpoint, TINY, cmvn)


def wave(samples: Tensor, rate: int = 16_000) -> Waveform:
    return Waveform(samples if samples.ndim == 2 else samples[None], rate)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["waveA", "waveB", "silence1600", "wave400", "wave300"])
def test_features_are_the_published_ones(
    model: SenseVoice, published: dict[str, Tensor], name: str
) -> None:
    samples = {
        "silence1600": torch.zeros(1600),
        "wave400": published["waveA"][:400],
        "wave300": published["waveA"][:300],
    }.get(name, published.get(name))
    assert samples is not None
    features = model.features(wave(samples))
    close(features, published[f"{name}.features"], atol=1e-3)
    assert model.frames(len(samples)) == len(features) + QUERIES


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_sinusoids_are_the_published_ones(
    published: dict[str, Tensor], dtype: torch.dtype, name: str
) -> None:
    positions = published["posenc560.positions"]
    rows = sinusoids(int(positions.max()), 560, dtype, torch.device("cpu"))[positions - 1]
    close(rows, published[f"posenc560.{name}"], atol=1e-5)


def recorded(model: SenseVoice, features: Tensor) -> Mapping[str, Tensor]:
    """Outputs of every sub-module of the encoder, by its name, and the frames."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name, module in model.encoder.named_modules()
        if name
    ]
    with torch.no_grad():
        outputs["encoder_out"], outputs["encoder_lens"] = model(features)
    for hook in hooks:
        hook.remove()
    return outputs


def test_every_submodule_is_the_published_one(
    model: SenseVoice, published: dict[str, Tensor]
) -> None:
    features = published["waveA.features"][None]
    outputs = recorded(model, features)
    queries = model.embed.weight[[0, 1, 2, 15]][None]
    close(
        model.encoder.with_positions(torch.cat([queries, features], 1)), published["A.after_posenc"]
    )
    for name in (
        "encoders0.0.self_attn", "encoders0.0", "encoders.0", "encoders.1", "after_norm",
        "tp_encoders.0", "tp_encoders.1", "encoder_out", "encoder_lens",
    ):  # fmt: skip
        close(outputs[name], published[f"A.{name}"])
    close(model.ctc_logits(outputs["encoder_out"]), published["A.ctc_logits"])


def test_a_padded_batch_is_the_published_one_and_equals_each_alone(
    model: SenseVoice, published: dict[str, Tensor]
) -> None:
    singles = [published["waveA.features"], published["waveB.features"]]
    lengths = torch.tensor([len(rows) for rows in singles])
    garbage = pad_sequence(singles, batch_first=True, padding_value=1e3)
    with torch.no_grad():
        frames, counts = model(garbage, lengths)
        for row, rows in enumerate(singles):
            alone, _ = model(rows[None])
            count = len(rows) + QUERIES
            close(frames[row, :count], alone[0])
            close(frames[row, :count], published["AB.encoder_out"][row, :count])
    assert counts.tolist() == published["AB.encoder_lens"].tolist()
    assert lengths.tolist() == [21, 12]


def test_other_query_ids_are_the_published_ones(
    model: SenseVoice, published: dict[str, Tensor]
) -> None:
    other = SenseVoice(replace(TINY, query_ids=(3, 1, 2, 14))).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        frames, _ = other(published["waveA.features"][None])
    close(frames, published["A.zh_withitn.encoder_out"])


def test_bfloat16_is_the_published_one(
    model: SenseVoice, published: dict[str, Tensor], cmvn: Tensor
) -> None:
    half = SenseVoice(replace(TINY, posenc_dtype="bfloat16"), cmvn).eval()
    half.load_state_dict(model.state_dict())
    half.bfloat16()
    features = half.features(wave(published["waveA"]))
    assert features.dtype == torch.float32, "a cast of the weights must not touch the front end"
    placed = half.encoder.with_positions(
        torch.cat([half.embed.weight[[0, 1, 2, 15]], features.bfloat16()])[None]
    )
    close(placed, published["A.bf16.after_posenc"], atol=0.1)
    with torch.no_grad():
        frames, _ = half(features[None])
    close(frames, published["A.bf16.encoder_out"], atol=0.1)
    close(frames.float().mean(), published["A.bf16.encoder_out"].float().mean(), atol=1e-3)


def test_float32_positions_stay_apart_in_a_bfloat16_model() -> None:
    config = replace(TINY, blocks=1, tp_blocks=0)
    still = torch.zeros(1, 400, 560, dtype=torch.bfloat16)
    fine, coarse = (
        SenseVoice(replace(config, posenc_dtype=dtype)).bfloat16().encoder.with_positions(still)[0]
        for dtype in ("float32", "bfloat16")
    )
    assert torch.equal(coarse[256], coarse[255]), "position 257 is no bfloat16 number"
    assert not torch.equal(fine[256], fine[255])


def test_coarse_positions_stay_coarse_in_a_float32_model() -> None:
    config = replace(TINY, blocks=1, tp_blocks=0, posenc_dtype="bfloat16")
    placed = SenseVoice(config).encoder.with_positions(torch.zeros(1, 400, 560))[0]
    assert placed.dtype == torch.float32
    assert torch.equal(placed[256], placed[255])


def test_full_size_has_the_published_names_and_shapes(folder: Path) -> None:
    full = json.loads((folder / "sensevoice_full_shapes.json").read_text())
    with torch.device("meta"):
        model = SenseVoice(replace(SenseVoiceConfig.official(), ctc_size=25_055))
        headless = SenseVoice(SenseVoiceConfig.official())
    expected = {
        name: tuple(shape)
        for name, (shape, _) in full["tensors"].items()
        if name.startswith(OMNI_PREFIX)
    }
    mine = {OMNI_PREFIX + name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert mine == expected
    sizes = full["param_counts"]
    assert sum(p.numel() for p in model.parameters()) == sizes["sensevoice_total"]
    assert sum(p.numel() for p in model.encoder.parameters()) == sizes["encoder"]
    for name in full["tensors"]:
        skipped = "audio_projection" in name or ".ctc." in name
        assert headless.rename(name) == (None if skipped else name.removeprefix(OMNI_PREFIX))
    for seconds in ("1s", "10s", "30s"):
        samples = int(seconds[:-1]) * 16_000
        assert headless.frames(samples) == full["flops"][seconds]["encoder_frames"]


def test_the_standalone_names_load_and_an_unwanted_head_is_skipped(
    checkpoint: dict[str, Tensor], cmvn: Tensor, published: dict[str, Tensor]
) -> None:
    standalone = {name.removeprefix(OMNI_PREFIX): tensor for name, tensor in checkpoint.items()}
    headless = SenseVoice.load(standalone, replace(TINY, ctc_size=0), cmvn)
    assert not [name for name in headless.state_dict() if name.startswith("ctc")]
    close(headless.encode(wave(published["waveA"])), published["A.encoder_out"][0])
    with pytest.raises(ModelError, match="no CTC head"):
        headless.ctc_logits(torch.zeros(1, 64))


def test_other_tensors_of_an_omni_checkpoint_are_skipped(checkpoint: dict[str, Tensor]) -> None:
    whole = checkpoint | {"model.norm.weight": torch.ones(3), "lm_head.weight": torch.ones(3, 3)}
    SenseVoice.load(whole, TINY)


def test_missing_and_strange_names_are_reported(checkpoint: dict[str, Tensor]) -> None:
    broken = dict(checkpoint)
    del broken[OMNI_PREFIX + "encoder.tp_norm.bias"]
    broken["encoder.surprise"] = torch.ones(1)
    with pytest.raises(WeightsError, match=r"(?s)tp_norm\.bias.*surprise|surprise.*tp_norm\.bias"):
        SenseVoice.load(broken, TINY)


def test_a_folder_with_weights_and_cmvn_opens(
    tmp_path: Path, checkpoint: dict[str, Tensor], cmvn: Tensor, published: dict[str, Tensor]
) -> None:
    save_file(checkpoint, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"am\.mvn"):
        SenseVoice.load(tmp_path / "model.safetensors", TINY)
    fbank.write_cmvn(cmvn, tmp_path / "am.mvn")
    model = SenseVoice.load(tmp_path / "model.safetensors", TINY)
    assert not model.training
    close(model.encode(wave(published["waveA"])), published["A.encoder_out"][0])


def test_encode_averages_channels_and_resamples(
    model: SenseVoice, published: dict[str, Tensor]
) -> None:
    samples = published["waveA"]
    stereo = torch.stack([samples * 1.5, samples * 0.5])
    close(model.features(wave(stereo)), published["waveA.features"], atol=1e-3)
    t = torch.arange(48_000) / 48_000
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * t)
    features = model.features(wave(tone, 48_000)), model.features(wave(tone[::3]))
    assert features[0].shape == features[1].shape == (model.frames(16_000) - QUERIES, 560)
    inside = [(rows[2:-2] / model.cmvn[1]).unflatten(1, (7, 80))[..., 8:20] for rows in features]
    close(inside[0], inside[1], atol=0.1)


def test_encode_has_no_dropout_no_gradient_and_keeps_the_mode(
    model: SenseVoice, published: dict[str, Tensor]
) -> None:
    sound = wave(published["waveB"])
    model.train()
    try:
        first, again = model.encode(sound), model.encode(sound)
        assert model.training
        assert model.encoder.training
        noisy, _ = model(published["waveB.features"][None])
    finally:
        model.eval()
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert not torch.allclose(noisy[0], first, atol=1e-3), "dropout works while training"
    adapter = torch.nn.Linear(64, 2)
    adapter(first).sum().backward()  # frames of a frozen encoder may train what reads them


def test_dither_makes_features_differ_but_repeat_under_a_seed(cmvn: Tensor) -> None:
    model = SenseVoice(replace(TINY, dither=1.0), cmvn)
    silence = wave(torch.zeros(1600))
    one, same, other = (
        model.features(silence, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_mini_learns_with_ctc_quickly() -> None:
    config = SenseVoiceConfig.mini(ctc_size=12)
    waves = [wave(torch.rand(n) - 0.5) for n in (9_600, 16_000, 12_800)]
    stacked = [stacked_features(sound, config) for sound in waves]
    model = SenseVoice(config, fbank.measure_cmvn(stacked))
    assert sum(p.numel() for p in model.parameters()) < 1.5e6
    rows = [model.features(sound) for sound in waves]
    lengths = torch.tensor([len(row) for row in rows])
    targets = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        frames, counts = model(pad_sequence(rows, batch_first=True), lengths)
        scores = model.ctc_logits(frames).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(scores, targets, counts, torch.tensor([3, 3, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "embed.weight")


def test_unusable_sound_is_refused(model: SenseVoice) -> None:
    for samples in (torch.zeros(1, 0), torch.zeros(1, 1), torch.full((1, 800), torch.nan)):
        with pytest.raises(MediaError):
            model.encode(wave(samples))


def test_features_need_a_fitting_cmvn(cmvn: Tensor) -> None:
    sound = wave(torch.zeros(800))
    with pytest.raises(ModelError, match=r"am\.mvn"):
        SenseVoice(TINY).features(sound)
    with pytest.raises(ModelError, match=r"\[2, 560\]"):
        SenseVoice(TINY, cmvn[:, :80]).features(sound)


@pytest.mark.parametrize("shape", [(5, 560), (1, 5, 80)])
def test_features_of_a_wrong_shape_are_refused(model: SenseVoice, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"give \[B, T, 560\]"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("lengths", [[6], [-1], [3, 3]])
def test_impossible_lengths_are_refused(model: SenseVoice, lengths: list[int]) -> None:
    with pytest.raises(ModelError, match="1 counts of 0 to 5"):
        model(torch.zeros(1, 5, 560), torch.tensor(lengths))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dim": 66}, "multiple of heads"),
        ({"blocks": 0}, "blocks is 0; give 1 to"),
        ({"kernel": 10}, "odd"),
        ({"query_ids": (0, 16)}, "query_ids"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(TINY, **change)


@pytest.mark.parametrize("method", ["soxr", "sinc"])
def test_channels_are_averaged_and_the_config_says_how_other_rates_are_heard(
    method: Resampling,
) -> None:
    noise = wave(torch.randn(2, 44_100), 44_100)
    config = replace(TINY, resampling=method)
    mixed = Waveform((noise.samples[:1] + noise.samples[1:]) / 2, 44_100).resample(16_000, method)
    assert torch.equal(stacked_features(noise, config), stacked_features(mixed, TINY))
    assert SenseVoiceConfig.official().resampling == "sinc"
    assert SenseVoiceConfig.mini().resampling == "soxr"
