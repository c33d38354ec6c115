"""MAGVIT-v2 against the published code's numbers, and the properties of lookup-free codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni_diffusion.codecs.base import TokenCodec
from omni_diffusion.codecs.magvit2 import (
    Magvit2,
    Magvit2Config,
    picture_of,
    pixels_of,
)
from omni_diffusion.errors import ConfigError, MediaError, WeightsError
from omni_diffusion.media import Picture

CLOSE = 1e-4
TINY = Magvit2Config(channels=8, multipliers=(1, 2), encoder_blocks=(1, 1), decoder_blocks=(1, 1),
                     bits=4, groups=4, understanding_size=16, generation_size=8)  # fmt: skip
INTERMEDIATE = {
    "enc.conv_in": "encoder.conv_in",
    "enc.down0.block0": "encoder.down.0.block.0",
    "enc.down0.downsample": "encoder.down.0.downsample",
    "enc.down2.block0": "encoder.down.2.block.0",
    "enc.down4.block1": "encoder.down.4.block.1",
    "enc.mid.attn_1": "encoder.mid.attn_1",
    "enc.norm_out": "encoder.norm_out",
    "enc.conv_out": "encoder.conv_out",
    "dec.post_quant_conv": "decoder.post_quant_conv",
    "dec.conv_in": "decoder.conv_in",
    "dec.mid.attn_1": "decoder.mid.attn_1",
    "dec.up4.upsample": "decoder.up.4.upsample",
    "dec.up2.block0": "decoder.up.2.block.0",
    "dec.up0.block1": "decoder.up.0.block.1",
}


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "encoders"


@pytest.fixture(scope="module")
def numbers(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "magvit_tiny_io.safetensors")


@pytest.fixture(scope="module")
def published(folder: Path) -> Magvit2:
    """The reduced model that made the numbers, through the public loader."""
    sizes = json.loads((folder / "magvit_tiny_config.json").read_text())
    encoder, decoder = sizes["encoder"], sizes["decoder"]
    config = Magvit2Config(
        channels=encoder["ch"],
        multipliers=tuple(encoder["ch_mult"]),
        encoder_blocks=tuple(encoder["num_res_blocks"]),
        decoder_blocks=tuple(decoder["num_res_blocks"]),
        bits=sizes["quantizer"]["codebook_dim"],
        groups=sizes["norm"]["groups"],
        understanding_size=64,
        generation_size=64,
    )
    assert decoder["ch_mult"] == [1, *encoder["ch_mult"][:-1]]  # the mirror, as assumed
    return Magvit2.load(folder / "magvit_tiny_weights.safetensors", config)


def gray(width: int, height: int) -> Picture:
    return Picture(torch.full((height, width, 3), 128, dtype=torch.uint8))


def noise(width: int, height: int) -> Picture:
    return Picture(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8))


def near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=CLOSE)


class TestParity:
    @pytest.mark.parametrize("name", ["img64", "img64x96", "img32"])
    def test_encode_and_decode(
        self, name: str, published: Magvit2, numbers: dict[str, Tensor]
    ) -> None:
        with torch.no_grad():
            z = published.encode_latents(numbers[f"{name}.pixel_values"])
            codes, ids = published.quantize(z)
            again = published.codes_of(ids, grid=(z.shape[2], z.shape[3]))
            decoded = published.decode_latents(again)
        near(z, numbers[f"{name}.z"])
        if f"{name}.indices" in numbers:
            assert torch.equal(ids, numbers[f"{name}.indices"])
        assert torch.equal(codes, again)
        near(decoded, numbers[f"{name}.decoded"])

    def test_every_stage(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        seen: dict[str, Tensor] = {}
        hooks = [
            published.get_submodule(ours).register_forward_hook(
                lambda _module, _inputs, output, theirs=theirs: seen.update({theirs: output})
            )
            for theirs, ours in INTERMEDIATE.items()
        ]
        with torch.no_grad():
            z = published.encode_latents(numbers["img64.pixel_values"])
            published.decode_latents(published.quantize(z)[0])
        for hook in hooks:
            hook.remove()
        for name, got in seen.items():
            wanted = numbers[f"img64.{name}"]
            near(got[: len(wanted)], wanted)
        assert seen.keys() == INTERMEDIATE.keys()

    def test_quantized_latents(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        codes, ids = published.quantize(numbers["img64.z"])
        near(codes, numbers["img64.z_q"])
        assert torch.equal(codes, numbers["img64.codes"])
        assert torch.equal(ids.reshape(2, 1, 4, 4), numbers["img64.indices_map"])

    def test_pixels_are_truncated(self, numbers: dict[str, Tensor]) -> None:
        for decoded, wanted in zip(
            numbers["img64.decoded"], numbers["img64.decoded_u8_rgb"], strict=True
        ):
            assert torch.equal(picture_of(decoded).pixels, wanted)

    def test_pictures_from_ids(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        pictures = published.decode_batch(numbers["img64.indices"])
        for picture, wanted in zip(pictures, numbers["img64.decoded_u8_rgb"], strict=True):
            # another sum order may move a value across a whole number, never by two
            assert (picture.pixels.int() - wanted.int()).abs().max() <= 1

    def test_arbitrary_tokens(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        with torch.no_grad():
            decoded = published.decode_latents(published.codes_of(numbers["tokens16.indices"]))
        near(decoded, numbers["tokens16.decoded"])

    def test_sign_edges(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        assert torch.equal(published.quantize(numbers["edge.z"])[1], numbers["edge.indices"])

    def test_code_table(self, published: Magvit2, numbers: dict[str, Tensor]) -> None:
        ids = numbers["table.indices"]
        codes = published.codes_of(ids.unsqueeze(1), grid=(1, 1)).flatten(1)
        assert torch.equal(codes, numbers["table.codes"])

    @pytest.mark.parametrize("case", ["landscape", "portrait", "halfway", "upscale"])
    def test_preprocessing(self, case: str, folder: Path) -> None:
        cases = load_file(folder / "image_preprocess.safetensors")
        got = pixels_of(Picture(cases[f"{case}.input_u8"]), 64)
        torch.testing.assert_close(got, cases[f"{case}.output"], rtol=0, atol=1.01 / 127.5)


class TestPublishedNames:
    def test_full_size_names_shapes_and_counts(self, folder: Path) -> None:
        full = json.loads((folder / "magvit_full_shapes.json").read_text())
        wanted = {
            name: tuple(shape)
            for name, (shape, _) in full["tensors"].items()
            if not name.startswith("quantize.")
        }
        with torch.device("meta"):
            model = Magvit2(Magvit2Config.official())
        assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == wanted
        for part in ("encoder", "decoder"):
            parameters = model.get_submodule(part).parameters()
            assert sum(p.numel() for p in parameters) == full["param_counts"][part]

    def test_official_sizes(self) -> None:
        config = Magvit2Config.official()
        assert (config.codes, config.stride) == (8192, 16)
        assert (config.tokens(512), config.tokens(256)) == (1024, 256)

    def test_weights_return_from_a_file(self, tmp_path: Path) -> None:
        model = Magvit2(TINY).eval()
        tensors = {**model.state_dict(), "quantize.embedding": torch.zeros(16, 4)}
        save_file(tensors, tmp_path / "model.safetensors")
        again = Magvit2.load(tmp_path / "model.safetensors", TINY)
        assert not again.training
        picture = noise(16, 16)
        assert torch.equal(again.encode(picture), model.encode(picture))

    def test_other_sizes_are_refused(self) -> None:
        with pytest.raises(WeightsError, match="conv_in"):
            Magvit2.load(Magvit2(TINY).state_dict(), replace(TINY, channels=16))


class TestCodes:
    @given(bits=st.integers(1, 16), data=st.data())
    @settings(max_examples=25, deadline=None)
    def test_ids_and_codes_are_one_to_one(self, bits: int, data: st.DataObject) -> None:
        model = Magvit2(replace(TINY, bits=bits))
        grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        count = grid[0] * grid[1]
        row = st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count)
        ids = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=3)))
        codes = model.codes_of(ids, grid)
        assert codes.shape == (len(ids), bits, *grid)
        assert torch.equal(codes.abs(), torch.ones_like(codes))
        assert torch.equal(model.quantize(codes * 0.3)[1], ids)

    def test_every_id_against_its_binary_numeral(self) -> None:
        codes = Magvit2(TINY).codes_of(torch.arange(16).unsqueeze(0)).flatten(2)[0].T
        numerals = ["".join("1" if c > 0 else "0" for c in code) for code in codes]
        assert numerals == [f"{i:04b}" for i in range(16)]

    def test_cells_run_row_by_row(self) -> None:
        z = -torch.ones(1, 4, 2, 3)
        z[0, 3, 0, 1] = 1  # row 0, column 1, lowest bit
        z[0, 0, 1, 0] = 1  # row 1, column 0, highest bit
        assert Magvit2(TINY).quantize(z)[1].tolist() == [[0, 1, 0, 8, 0, 0]]

    def test_nan_gives_zero_and_huge_values_keep_their_sign(self) -> None:
        z = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38]).reshape(1, 4, 1, 1)
        codes, ids = Magvit2(TINY).quantize(z)
        assert codes.flatten().tolist() == [-1, 1, -1, 1]
        assert ids.tolist() == [[0b0101]]

    def test_gradients_pass_straight_through(self) -> None:
        z = (1e6 * torch.randn(2, 4, 3, 3)).requires_grad_()
        codes, _ = Magvit2(TINY).quantize(z)
        assert torch.equal(codes.abs(), torch.ones_like(codes))
        slope = torch.randn_like(codes)
        (codes * slope).sum().backward()
        assert z.grad is not None
        assert torch.equal(z.grad, slope)


class TestPictures:
    def test_sizes_and_round_trip_shapes(self) -> None:
        model = Magvit2(TINY)
        codec: TokenCodec[Picture] = model
        assert codec.encode(gray(30, 20)).shape == (TINY.tokens(TINY.generation_size),)
        ids = model.encode(gray(30, 20), TINY.understanding_size)
        assert ids.shape == (64,)
        assert ids.dtype == torch.int64
        assert 0 <= ids.min() <= ids.max() < codec.vocabulary_size == 16
        back = codec.decode(ids)
        assert (back.width, back.height) == (16, 16)
        assert back.pixels.dtype == torch.uint8

    def test_a_grid_that_is_not_square(self) -> None:
        back = Magvit2(TINY).decode(torch.arange(6), grid=(2, 3))
        assert (back.height, back.width) == (4, 6)

    def test_a_batch_equals_its_pictures(self) -> None:
        model = Magvit2(TINY)
        pictures = [noise(9, 20), noise(16, 16)]
        ids = model.encode_batch(pictures)
        for picture, row in zip(pictures, ids, strict=True):
            assert torch.equal(model.encode(picture), row)
        for whole, row in zip(model.decode_batch(ids), ids, strict=True):
            gap = whole.pixels.int() - model.decode(row).pixels.int()
            assert gap.abs().max() <= 1

    def test_a_sign_that_hangs_on_rounding_is_that_of_the_picture_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = Magvit2(TINY).eval()
        pictures = [noise(16, 16) for _ in range(3)]
        pixels = torch.stack([pixels_of(picture, TINY.generation_size) for picture in pictures])
        latents = model.encode_latents

        def rounding(given: Tensor) -> Tensor:  # as another kernel would, the same way everywhere
            z = latents(given)
            return z if len(given) == 1 else z - 1e-5 * z.square().mean().sqrt()

        with torch.no_grad():  # one sign of the second picture comes to hang on it
            model.encoder.quant_conv.bias[0] -= latents(pixels[1:2])[0, 0, 0, 0] - 2e-6
        monkeypatch.setattr(model, "encode_latents", rounding)
        alone = torch.stack([model.encode(picture) for picture in pictures])
        with torch.no_grad():
            assert not torch.equal(model.quantize(rounding(pixels))[1], alone)
        assert torch.equal(model.encode_batch(pictures), alone)

    def test_a_picture_of_the_right_size_is_untouched(self) -> None:
        picture = noise(16, 16)
        assert torch.equal(picture_of(pixels_of(picture, 16) + 1e-4).pixels, picture.pixels)

    @given(width=st.integers(1, 60), height=st.integers(1, 60), size=st.integers(1, 40))
    @settings(max_examples=40, deadline=None)
    def test_any_picture_becomes_a_square(self, width: int, height: int, size: int) -> None:
        assert pixels_of(gray(width, height), size).shape == (3, size, size)

    def test_pixels_are_clamped(self) -> None:
        pixels = torch.tensor([-7.0, 7.0, 0.0]).reshape(3, 1, 1)
        assert picture_of(pixels).pixels.flatten().tolist() == [0, 255, 127]

    def test_mini_learns(self) -> None:
        """A few steps on one picture: every parameter gets a gradient, the error falls."""
        model = Magvit2(Magvit2Config.mini())
        pixels = pixels_of(noise(64, 64), 64).unsqueeze(0) * 0.1
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        errors = []
        for _ in range(4):
            z = model.encode_latents(pixels)
            error = (model.decode_latents(model.quantize(z)[0]) - pixels).square().mean()
            optimizer.zero_grad()
            (error + 0.1 * (z - z.detach().sign()).square().mean()).backward()
            optimizer.step()
            errors.append(error.item())
        assert all(p.grad is not None for p in model.parameters())
        assert errors[-1] < errors[0]


class TestMistakes:
    def test_a_count_that_is_no_square(self) -> None:
        with pytest.raises(MediaError, match=r"5 image ids.*square"):
            Magvit2(TINY).decode(torch.zeros(5, dtype=torch.long))

    @pytest.mark.parametrize("grid", [(2, 2), (0, 6), (-2, -3)])
    def test_a_grid_that_does_not_fit(self, grid: tuple[int, int]) -> None:
        with pytest.raises(MediaError, match="6 image ids"):
            Magvit2(TINY).decode(torch.arange(6), grid=grid)

    @pytest.mark.parametrize("bad", [-1, 16, 151936])
    def test_ids_outside_the_codebook(self, bad: int) -> None:
        with pytest.raises(MediaError, match=r"from 0 to 15"):
            Magvit2(TINY).decode(torch.tensor([0, 1, 2, bad]))

    def test_no_ids_and_ids_of_the_wrong_shape(self) -> None:
        with pytest.raises(MediaError, match="0 image ids"):
            Magvit2(TINY).decode(torch.zeros(0, dtype=torch.long))
        with pytest.raises(MediaError, match="one row"):
            Magvit2(TINY).decode(torch.zeros(1, 4, dtype=torch.long))

    @pytest.mark.parametrize("shape", [(1, 3, 15, 16), (3, 16, 16), (1, 3, 0, 16), (1, 4, 16, 16)])
    def test_pixels_of_the_wrong_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(MediaError, match="expected"):
            Magvit2(TINY).encode_latents(torch.zeros(shape))

    def test_a_size_off_the_stride(self) -> None:
        with pytest.raises(MediaError, match="multiples of 2"):
            Magvit2(TINY).encode(gray(9, 9), 9)

    def test_a_strip(self) -> None:
        with pytest.raises(MediaError, match="500 x 1"):
            Magvit2(TINY).encode(gray(500, 1))

    def test_no_pictures(self) -> None:
        with pytest.raises(MediaError, match="at least one"):
            Magvit2(TINY).encode_batch([])

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"encoder_blocks": (1,)}, "one of each per level"),
            ({"multipliers": (), "encoder_blocks": (), "decoder_blocks": ()}, "per level"),
            ({"groups": 3}, "groups=3"),
            ({"bits": 0}, "bits is 0"),
            ({"generation_size": 9}, "size is 9"),
        ],
    )
    def test_configs(self, wrong: dict[str, object], named: str) -> None:
        with pytest.raises(ConfigError, match=named):
            replace(TINY, **wrong)
