"""Codes to mel against the published code's numbers, prompts, batches and the training loss."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.token_encoder import relative_positions
from omni_diffusion.errors import SamplingError, VocabularyError, WeightsError
from omni_diffusion.io import config as configs

CLOSE = 2e-5
CASES = [("offline25", 10), ("offline7_steps3", 3), ("first12", 10), ("prompted", 10)]


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "flow_tiny_io.safetensors")


def spoken(flow: Flow, numbers: dict[str, Tensor], case: str, **options: object) -> Tensor:
    return flow.sample(
        numbers[f"{case}.tokens"],
        prompt_tokens=numbers[f"{case}.prompt_tokens"],
        prompt_mel=numbers[f"{case}.prompt_feat"].mT,
        speaker=numbers[f"{case}.embedding"],
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("case", "steps"), CASES)
def test_sampled_mel(flow: Flow, numbers: dict[str, Tensor], case: str, steps: int) -> None:
    wanted = numbers[f"{case}.mel"]
    given = spoken(flow, numbers, case, steps=steps, noise=numbers[f"{case}.noise"])
    torch.testing.assert_close(given, wanted, atol=CLOSE, rtol=0)
    # without noise of its own the caller gets the published seed
    assert torch.equal(spoken(flow, numbers, case, steps=steps), given)


@pytest.mark.parametrize("case", ["offline25", "prompted"])
def test_every_step_on_the_way(flow: Flow, numbers: dict[str, Tensor], case: str) -> None:
    states, times = [], []

    def watch(_: object, given: tuple[Tensor, ...]) -> None:
        states.append(given[0][:1])
        times.append(given[1][0])

    hook = flow.decoder.estimator.register_forward_pre_hook(watch)
    spoken(flow, numbers, case)
    hook.remove()
    torch.testing.assert_close(torch.stack(states), numbers[f"{case}.x_steps"], atol=CLOSE, rtol=0)
    torch.testing.assert_close(torch.stack(times), numbers[f"{case}.t_steps"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", ["offline25", "prompted"])
@torch.no_grad()
def test_conditions(flow: Flow, numbers: dict[str, Tensor], case: str) -> None:
    tokens = torch.cat([numbers[f"{case}.prompt_tokens"], numbers[f"{case}.tokens"]], dim=1)
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, given, out: seen.append(out))
        for block in flow.encoder.encoders
    ]
    encoded = flow.encoder(flow.input_embedding(tokens))
    for hook in hooks:
        hook.remove()
    found = {
        "embedded": flow.input_embedding(tokens),
        "enc_layer0": seen[0],
        "enc_layer1": seen[1],
        "enc_out": encoded,
        "enc_proj": flow.encoder_proj(encoded),
        "pos_emb": relative_positions(25, 32)[None],
        "mu_btc": flow.means(tokens, 172).mT,
        "spks": flow.voice(numbers[f"{case}.embedding"], 1),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, numbers[f"{case}.{name}"], atol=CLOSE, rtol=0)


def test_lengths_as_published(flow: Flow, folder: Path) -> None:
    table = json.loads((folder / "flow_lengths.json").read_text())
    for codes, frames in table["frames_for_tokens_1_to_130"].items():
        assert flow.lengths(int(codes)) == frames
    odd = [[n, flow.lengths(n), n * 441 // 64] for n in range(4001)]
    wanted = table["mismatch_vs_floor_n_441_over_64_for_n_le_4000"]
    assert [row for row in odd if row[1] != row[2]] == wanted


def test_noise_is_the_published_one_and_leaves_the_callers_random_state_alone(
    folder: Path,
) -> None:
    before = torch.random.get_rng_state()
    with torch.device("meta"):
        full = Flow(FlowConfig.official())
    published = load_file(folder / "flow_seed42_noise_check.safetensors")
    assert torch.equal(full.noise(172)[..., :8], published["seed42_noise_80x172_first8cols"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_official_names_and_shapes(folder: Path) -> None:
    with torch.device("meta"):
        full = Flow(FlowConfig.official())
    published = json.loads((folder / "keys_flow_full.json").read_text())
    ours = {name: list(tensor.shape) for name, tensor in full.state_dict().items()}
    assert ours == {name: shape for name, (shape, _) in published.items()}


def test_rows_of_a_batch_equal_their_runs_alone(flow: Flow) -> None:
    tokens = torch.randint(0, 64, (3, 9))
    together = flow.sample(tokens, steps=2)
    for row in range(3):
        alone = flow.sample(tokens[row : row + 1], steps=2)[0]
        torch.testing.assert_close(together[row], alone, atol=CLOSE, rtol=0)


def test_guidance_zero_is_the_conditional_velocity_alone(flow: Flow) -> None:
    tokens, rows = torch.randint(0, 64, (1, 5)), []
    hook = flow.decoder.estimator.register_forward_pre_hook(
        lambda _, given: rows.append(len(given[0]))
    )
    plain = flow.sample(tokens, steps=2, guidance=0.0)
    flow.sample(tokens, steps=2)
    hook.remove()
    assert rows == [1, 1, 2, 2]
    near = flow.sample(tokens, steps=2, guidance=1e-6)
    torch.testing.assert_close(plain, near, atol=1e-4, rtol=0)


def test_no_codes_no_mel(flow: Flow) -> None:
    assert flow.sample(torch.empty(1, 0, dtype=torch.long)).shape == (1, 16, 0)


def test_refusals(flow: Flow, folder: Path) -> None:
    tokens = torch.zeros(1, 5, dtype=torch.long)
    with pytest.raises(SamplingError, match="0 steps"):
        flow.sample(tokens, steps=0)
    with pytest.raises(SamplingError, match="noise of 33 frames; give 34"):
        flow.sample(tokens, noise=torch.zeros(1, 16, 33))
    with pytest.raises(SamplingError, match="prompt of 35 mel frames"):
        flow.sample(tokens, prompt_mel=torch.zeros(1, 16, 35))
    with pytest.raises(VocabularyError, match="from 3 to 64, expected local codes from 0 to 63"):
        flow.checked(torch.tensor([3, 64]))
    with pytest.raises(WeightsError, match="missing"):
        Flow.load({}, flow.config)


# -- training -----------------------------------------------------------------------------


def test_padding_does_not_change_the_conditions(flow: Flow) -> None:
    tokens = torch.randint(0, 64, (2, 12))
    lengths, frames = torch.tensor([12, 7]), torch.tensor([80, 45])
    tokens[1, 7:] = -1
    with torch.no_grad():
        padded = flow.means(tokens, 80, lengths, frames)
        alone = flow.means(tokens[1:, :7], 45)
    torch.testing.assert_close(padded[1:, :, :45], alone, atol=CLOSE, rtol=0)
    assert not padded[1, :, 45:].any()


def test_padding_adds_nothing_to_the_loss(flow: Flow) -> None:
    tokens, mel = torch.randint(0, 64, (2, 10)), torch.randn(2, 16, 60)
    lengths, frames = torch.tensor([10, 6]), torch.tensor([60, 40])
    spoiled = mel.clone()
    spoiled[1, :, 40:] = 1e3

    def loss(value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return flow.loss(
            tokens, value, n_tokens=lengths, n_frames=frames, generator=generator
        ).detach()

    torch.testing.assert_close(loss(mel), loss(spoiled))


def test_prompts_are_beginnings_of_at_most_four_fifths(flow: Flow) -> None:
    mel, frames = torch.ones(400, 16, 50), torch.full((400,), 40)
    shown = flow._prompt(mel, frames, torch.Generator().manual_seed(0))[:, 0]
    lengths = shown.sum(1)
    assert torch.equal(shown, (torch.arange(50) < lengths[:, None]).float())
    assert lengths.max() <= 32
    assert 0.4 < (lengths > 0).float().mean() < 0.6


@pytest.mark.slow
def test_the_mini_decoder_learns() -> None:
    torch.manual_seed(0)
    small = configs.from_dict(
        FlowConfig,
        {
            "vocab_size": 8,
            "mel_bins": 8,
            "encoder": {"input_size": 16, "width": 16, "heads": 2, "ffn": 16, "blocks": 1},
            "estimator": {
                "channels": 16, "heads": 2, "head_dim": 8, "n_blocks": 1, "mid_blocks": 1
            },
        },
    )  # fmt: skip
    flow = Flow(small)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    tokens = torch.arange(8).repeat(4, 1)
    mel = torch.randn(8, 8)[tokens].transpose(1, 2).repeat_interleave(6, dim=2)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = flow(tokens, mel)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    untouched = [n for n, p in flow.named_parameters() if p.grad is None]
    assert untouched == []


def test_mini_fits_one_core() -> None:
    mini = Flow(FlowConfig.mini())
    assert sum(p.numel() for p in mini.parameters()) < 4_000_000
    assert mini.sample(torch.zeros(1, 2, dtype=torch.long), steps=1).shape == (1, 80, 6)


def test_temperature_scales_the_noise(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    published = flow.noise(5)
    monkeypatch.setattr(flow, "config", replace(flow.config, temperature=0.5))
    assert torch.equal(flow.noise(5), published / 2)


@pytest.mark.slow
def test_the_config_says_how_many_steps_and_in_what_precision(flow: Flow) -> None:
    tokens = torch.arange(40)[None] % flow.config.vocab_size
    plain, config = flow.sample(tokens), flow.config
    try:
        flow.config = replace(config, steps=3)
        assert torch.equal(flow.sample(tokens), flow.sample(tokens, steps=3))
        assert not torch.equal(flow.sample(tokens), plain)
        flow.config = replace(config, precision="bfloat16")
        coarse = flow.sample(tokens)
    finally:
        flow.config = config
    assert coarse.dtype == torch.float32
    error = (coarse - plain).square().mean() / plain.var()
    assert 0 < float(error) < 1e-3
