"""Tiny published folders: they open, answer and convert, and wrong files are refused."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.published_folders import BF16, EMBEDDED, PublishedFolders, write_json
from tests.tasks.tiny_scenes import CONVERSATIONS
from torch import Tensor

from omni_diffusion.backbone import dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import bytes_saved
from omni_diffusion.cli.main import main
from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT
from omni_diffusion.codecs.sensevoice import OMNI_PREFIX
from omni_diffusion.conversation import Image, Speech
from omni_diffusion.diffusion.params import SamplingParams
from omni_diffusion.engine.engine import Engine
from omni_diffusion.engine.request import Request
from omni_diffusion.errors import (
    ConfigError,
    MissingDependencyError,
    ModelError,
    OmniError,
    StorageError,
    WeightsError,
)
from omni_diffusion.io import config as configs
from omni_diffusion.io import memory, weights
from omni_diffusion.models import omni, upstream
from omni_diffusion.models.omni import OmniModel, convert
from omni_diffusion.models.sizes import model_size
from omni_diffusion.models.upstream import CodecConfigs
from omni_diffusion.vocab import Vocabulary


def change(path: Path, **values: object) -> None:
    write_json(path, json.loads(path.read_text()) | values)


def rewrite(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of one safetensors file or folder of shards."""
    tensors = weights.read_tensors(path)
    edit(tensors)
    path = path / "model.safetensors" if path.is_dir() else path
    weights.write_tensors({n: t.clone() for n, t in tensors.items()}, path, max_shard_bytes=20_000)


def everything(model: OmniModel) -> dict[str, Tensor]:
    codecs = model.codecs
    modules = (model.backbone, codecs.image, codecs.hearing, codecs.speech)
    found = {f"{i} {n}": t for i, m in enumerate(modules) for n, t in m.state_dict().items()}
    assert codecs.hearing.cmvn is not None
    return found | {"cmvn": codecs.hearing.cmvn}


def same(one: OmniModel, two: OmniModel) -> None:
    left, right = everything(one), everything(two)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name].to(tensor.dtype)), name
    assert one.codecs.text.encode("two dogs").equal(two.codecs.text.encode("two dogs"))


# -- opened ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sound_is_resampled_as_for_the_published_tokenizer(made: PublishedFolders) -> None:
    assert made.open().codecs.speech.tokenizer.config.resampling == "sinc"


def test_the_official_set_opens_as_it_was_made(made: PublishedFolders) -> None:
    opened = made.open()
    same(opened, made.model)
    assert opened.config.vocabulary == made.model.vocabulary
    assert opened.config.backbone == made.model.config.backbone
    assert opened.backbone.lm_head.weight.dtype == BF16
    assert opened.codecs.hearing.embed.weight.dtype == torch.float32
    assert isinstance(opened.codecs.speech.vocoder, HiFT)


def test_other_ways_to_keep_the_same_files(own: PublishedFolders) -> None:
    """One file without an index, a pickle, tokens in tokenizer_config.json, a path to am.mvn."""
    tensors = weights.read_tensors(own.omni)
    for path in own.omni.glob("model*"):
        path.unlink()
    weights.write_tensors(
        {n: t.clone() for n, t in tensors.items()}, own.omni / "model.safetensors"
    )
    added = json.loads((own.omni / "added_tokens.json").read_text())
    (own.omni / "added_tokens.json").unlink()
    rows = {str(id): {"content": token, "special": True} for token, id in added.items()}
    write_json(own.omni / "tokenizer_config.json", {"added_tokens_decoder": rows})
    image = own.root / "magvitv2/pytorch_model.safetensors"
    torch.save(weights.read_tensors(image), image.with_suffix(".bin"))
    image.unlink()
    same(own.open(speech_encoder=own.root / "sensevoice/am.mvn"), own.model)


def test_it_answers(made: PublishedFolders) -> None:
    model = OmniModel.from_pretrained(made.omni, codec_sources=made.sources, dtype=torch.float32)
    params = SamplingParams(steps=3)
    names = ("t2i", "tts", "caption")
    asked = [Request(n, CONVERSATIONS[n], params=params, max_tokens=12) for n in names]
    picture, sound, words = Engine(model).run(asked)
    assert [r.error for r in (picture, sound, words)] == [None] * 3
    assert any(isinstance(part, Image) for part in picture.parts)
    assert any(isinstance(part, Speech) for part in sound.parts)
    assert words.canvas is not None


def test_our_own_folder_opens_too(made: PublishedFolders, tmp_path: Path) -> None:
    made.model.save(tmp_path / "ours")
    same(OmniModel.from_pretrained(tmp_path / "ours"), made.model)
    half = OmniModel.from_pretrained(tmp_path / "ours", dtype=BF16)
    assert half.backbone.lm_head.weight.dtype == BF16


# -- converted ---------------------------------------------------------------------------------


def type_in(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["omni-diffusion", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def options(made: PublishedFolders, sizes: Path) -> tuple[object, ...]:
    sources = made.sources
    configs.save(sources.sizes, sizes)
    return (
        *("--image-codec", sources.image_codec, "--speech-tokenizer", sources.speech_tokenizer),
        *(
            "--speech-decoder",
            sources.speech_decoder,
            "--speech-encoder",
            sources.speech_encoder,
            "--sizes",
            sizes,
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_converted_and_opened_again(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    wanted = options(made, tmp_path / "sizes.json")
    monkeypatch.chdir(tmp_path)
    chosen = () if dtype is None else ("--dtype", dtype)
    assert type_in(monkeypatch, "convert", made.omni, "out", *wanted, *chosen) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = OmniModel.from_pretrained("../out", dtype=None if dtype else BF16)
    same(again, made.model)
    stored = weights.read_tensors(tmp_path / "out/model.safetensors")["lm_head.weight"].dtype
    assert stored == (torch.float32 if dtype else BF16)


@pytest.mark.slow
def test_shards_of_a_converted_folder(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the 7B model is written: several files with the usual index, opened as one."""
    real = weights.write_tensors

    def in_shards(*args: Any, **options: Any) -> None:
        real(*args, **options, max_shard_bytes=20_000)

    monkeypatch.setattr(weights, "write_tensors", in_shards)
    convert(made.omni, tmp_path / "out", codec_sources=made.sources)
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == made.model.backbone.state_dict().keys()
    same(OmniModel.open(tmp_path / "out", dtype=BF16), made.model)
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    monkeypatch.undo()
    made.model.save(tmp_path / "again")  # one file now
    assert not list((tmp_path / "again").glob("model-*"))
    same(OmniModel.open(tmp_path / "again"), made.model)


@pytest.mark.slow
def test_the_backbone_is_not_in_memory_while_it_is_converted(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors are written from the published files' mapping, and its bytes ask for no room."""
    checked: list[int] = []
    monkeypatch.setattr(memory, "check", lambda needed, what, device: checked.append(needed))
    upstream.load(made.omni, made.sources, None, torch.device("cpu"))
    convert(made.omni, tmp_path / "a", codec_sources=made.sources)
    convert(made.dream, tmp_path / "b", codec_sources=made.sources)
    whole, converted, extended = checked
    backbone = made.model.backbone.state_dict()
    assert whole - converted == 2 * sum(tensor.numel() for tensor in backbone.values())
    assert extended - converted == 2 * (
        backbone[EMBEDDED].numel() + backbone["lm_head.weight"].numel()
    )


@pytest.mark.slow
def test_a_conversion_without_room_or_cut_short_leaves_nothing(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"out takes .* its disk has 1e-06 GB free; free"):
            convert(made.omni, tmp_path / "out", codec_sources=made.sources)
    with monkeypatch.context() as patch:
        patch.setattr(omni, "write_config", lambda *args: pytest.fail("cut short"))
        with pytest.raises(pytest.fail.Exception):
            convert(made.omni, tmp_path / "out", codec_sources=made.sources)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mistakes_of_convert_are_one_line(
    made: PublishedFolders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert type_in(monkeypatch, "convert", made.omni, made.omni) == 2
    assert str(made.omni) in capsys.readouterr().err
    assert type_in(monkeypatch, "convert", made.omni, "out", "--dtype", "int8") == 2
    assert "int8" in capsys.readouterr().err
    assert type_in(monkeypatch, "convert", "no where", "out") == 2
    assert capsys.readouterr().err.startswith("error: nothing at no where; give a folder")
    assert not (tmp_path / "out").exists()
    made.model.save(tmp_path / "ours")
    assert type_in(monkeypatch, "convert", "ours", "out") == 2
    assert "ours already has" in capsys.readouterr().err
    wanted = options(made, tmp_path / "sizes.json")
    assert type_in(monkeypatch, "convert", made.omni, "ours", *wanted) == 2
    assert "ours exists and is not empty; remove it" in capsys.readouterr().err


# -- Dream-7B ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_dream_grows_to_the_whole_vocabulary(made: PublishedFolders) -> None:
    opened, again = made.open(made.dream), made.open(made.dream)
    vocabulary = opened.vocabulary
    assert vocabulary == made.model.vocabulary
    kept = vocabulary.mask + 1
    for name in (EMBEDDED, "lm_head.weight"):
        rows = opened.backbone.state_dict()[name]
        old = made.model.backbone.state_dict()[name].to(BF16)[:kept]
        assert rows.shape == (vocabulary.size, 32)
        assert torch.equal(rows[:kept], old), "old rows stay bit by bit"
        new, mean = rows[kept:].float(), old.float().mean(0)
        assert 0 < (new - mean).abs().max() < 0.02
        torch.testing.assert_close(new.mean(0), mean, atol=2e-3, rtol=0)
        assert len(new.unique(dim=0)) == len(new), "no two ids start alike"
        assert torch.equal(rows, again.backbone.state_dict()[name]), "the seed is fixed"
    assert opened.codecs.hearing.encoder.state_dict().keys()
    adapter = opened.backbone.model.audio_projection.state_dict()
    assert 0.01 < adapter["mlp.0.weight"].float().std() < 0.03
    assert torch.equal(adapter["pre_proj_layernorm.weight"].float(), torch.ones(16))
    layers = [n for n in opened.backbone.state_dict() if ".layers." in n]
    for name in layers:
        old = made.model.backbone.state_dict()[name]
        assert torch.equal(opened.backbone.state_dict()[name], old.to(BF16)), name


def test_dream_needs_the_speech_encoder_of_its_own_folder(own: PublishedFolders) -> None:
    (own.root / "sensevoice/model.pt").unlink()
    with pytest.raises(WeightsError, match=r"no weights at .*sensevoice/model\.pt"):
        own.open(own.dream)


def test_dream_with_fewer_rows_than_tokens(own: PublishedFolders) -> None:
    change(own.dream / "config.json", vocab_size=10)
    with pytest.raises(ModelError, match="vocab_size of 10"):
        own.open(own.dream)


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{"model_type": "qwen2"}, {"architectures": ["Qwen2ForCausalLM"]}]
)
def test_another_model(own: PublishedFolders, other: dict[str, object]) -> None:
    change(own.omni / "config.json", **other)
    with pytest.raises(ModelError, match=r"config\.json is of model_type"):
        own.open()


def test_another_speech_tokenizer(own: PublishedFolders) -> None:
    change(own.root / "tokenizer/config.json", pooling_type="max")
    with pytest.raises(ModelError, match="pooling_type 'max', expected 'avg'"):
        own.open()
    change(own.root / "tokenizer/config.json", pooling_type="avg", quantize_vocab_size=64)
    with pytest.raises(ConfigError, match="64 codes"):
        own.open()


def test_added_tokens_at_other_ids(own: PublishedFolders) -> None:
    path = own.omni / "added_tokens.json"
    added = json.loads(path.read_text())
    begin, end = added["<|begin_of_audio|>"], added["<|end_of_audio|>"]
    write_json(path, added | {"<|begin_of_audio|>": end, "<|end_of_audio|>": begin})
    with pytest.raises(ModelError, match=rf"begin_of_audio\|> has id {end}, expected {begin};"):
        own.open()
    write_json(path, added | {"<|video_0|>": len(added)})
    with pytest.raises(ModelError, match=r"<\|video_0\|> has id \d+, expected none"):
        own.open()
    write_json(path, {token: id for token, id in added.items() if token != "<|mask|>"})
    with pytest.raises(ModelError, match=r"<\|mask\|> has id none, expected \d+"):
        own.open()
    write_json(path, added)
    change(own.omni / "config.json", mask_token_id=3)
    with pytest.raises(ModelError, match="mask_token_id is 3"):
        own.open()


def test_ids_that_do_not_match_the_codecs(own: PublishedFolders) -> None:
    path = own.omni / "added_tokens.json"
    added = json.loads(path.read_text())
    last = max(added, key=added.__getitem__)
    write_json(path, {token: id for token, id in added.items() if token != last})
    with pytest.raises(ModelError, match="its tokenizer's count is"):
        own.open()
    write_json(path, added)
    change(own.omni / "config.json", vocab_size=9)
    with pytest.raises(ModelError, match=r"config\.json's vocab_size is 9"):
        own.open()


def test_gaps_in_the_byte_pairs(own: PublishedFolders) -> None:
    words = json.loads((own.omni / "vocab.json").read_text())
    write_json(own.omni / "vocab.json", words | {next(iter(words)): 100_000})
    with pytest.raises(ModelError, match="gaps in its ids"):
        own.open()


def test_one_table_of_all_names(own: PublishedFolders) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors["model.stray.weight"] = tensors.pop("model.norm.weight")
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:, 1:]

    rewrite(own.omni, damage)
    with pytest.raises(WeightsError) as caught:
        own.open()
    table = str(caught.value)
    for line in (
        "missing    model.norm.weight [32]",
        "unexpected model.stray.weight",
        "mis-shaped lm_head.weight",
    ):
        assert line in table
    rewrite(own.root / "magvitv2/pytorch_model.safetensors", lambda t: t.popitem())
    with pytest.raises(WeightsError, match="do not fit Dream"):
        own.open()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("omni", "magvitv2/pytorch_model.safetensors"),
        ("omni", "tokenizer/model.safetensors"),
        ("omni", "decoder/flow.pt"),
        ("omni", "decoder/hift.pt"),
        ("dream", "sensevoice/model.pt"),
    ],
)
def test_only_leftovers_of_training_are_passed_over(
    own: PublishedFolders, folder: str, file: str
) -> None:
    """The fixture's files already hold those that are known by name."""
    tensors = weights.read_tensors(own.root / file)
    stray = tensors | {"ema_counts": torch.zeros(1), "quantizer.embedding": torch.zeros(1)}
    if file.endswith(".pt"):
        torch.save(stray, own.root / file)
    else:
        weights.write_tensors(stray, own.root / file)
    with pytest.raises(WeightsError) as caught:
        own.open(own.root / folder)
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["  unexpected ema_counts", "  unexpected quantizer.embedding"]


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder."])
def test_a_speech_tokenizer_within_its_whisper(own: PublishedFolders, prefix: str) -> None:
    path = own.root / "tokenizer/model.safetensors"
    encoder = weights.read_tensors(path)
    more = {"layer_norm.weight": torch.zeros(16), "layer_norm.bias": torch.zeros(16)}
    more |= {f"layers.{n}.fc1.bias": torch.zeros(16) for n in (1, 15)}
    weights.write_tensors(
        {prefix + name: tensor for name, tensor in (encoder | more).items()}, path
    )
    same(own.open(), own.model)
    for name in ("layers.1.fc1.bias", "layer_norm.bias"):  # without it nothing comes after
        weights.write_tensors(encoder | {name: torch.zeros(16)}, path)
        with pytest.raises(WeightsError, match=f"unexpected {name}"):
            own.open()
    weights.write_tensors({f"decoder.{name}": tensor for name, tensor in encoder.items()}, path)
    with pytest.raises(WeightsError, match=r"unexpected decoder\.codebook\.weight"):
        own.open()


def test_a_name_missing_from_each_part(own: PublishedFolders) -> None:
    rewrite(own.omni, lambda t: t.pop(f"{OMNI_PREFIX}embed.weight"))
    with pytest.raises(WeightsError, match="do not fit SenseVoice"):
        own.open()
    rewrite(own.omni, lambda t: [t.pop(n) for n in [*t] if n.startswith(OMNI_PREFIX)])
    with pytest.raises(WeightsError, match=r"holds no model\.audio_model\.model"):
        own.open()


def test_cut_and_missing_shards(own: PublishedFolders) -> None:
    shard = sorted(own.omni.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=rf"{shard.name} is truncated or corrupt"):
        own.open()
    shard.unlink()
    with pytest.raises(WeightsError, match=rf"{shard.name}, which is missing"):
        own.open()


class Harm:
    """What a pickle may carry: a call, made while it is read."""

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("file", ["decoder/flow.pt", "decoder/hift.pt"])
def test_code_in_a_pickle_does_not_run(
    own: PublishedFolders, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harm()}, own.root / file)
    with pytest.raises(WeightsError, match="might run code"):
        own.open()
    (own.root / file).write_bytes(pickle.dumps(Harm()))
    with pytest.raises(WeightsError, match=Path(file).name):
        own.open()
    assert not (tmp_path / "harmed").exists()


def test_cmvn_of_another_front_end(own: PublishedFolders) -> None:
    fbank.write_cmvn(torch.ones(2, 7), own.root / "sensevoice/am.mvn")
    with pytest.raises(WeightsError, match="features of 7 values, expected 560"):
        own.open()


@pytest.mark.parametrize("file", ["config.json", "added_tokens.json", "vocab.json"])
def test_files_that_are_missing_or_broken(own: PublishedFolders, file: str) -> None:
    (own.omni / file).write_text("[]")
    with pytest.raises(OmniError, match=file):
        own.open()
    (own.omni / file).write_text("{")
    with pytest.raises(OmniError, match=file):
        own.open()
    (own.omni / file).unlink()
    with pytest.raises(ModelError):
        own.open()


def test_too_little_memory(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.model.save(tmp_path)
    monkeypatch.setattr(memory, "free_on", lambda device: 1000)
    monkeypatch.setattr(weights, "read_tensors", lambda path: pytest.fail("read too early"))
    for folder in (made.omni, made.dream, tmp_path):
        with pytest.raises(ModelError, match="cpu has 1e-06 GB free"):
            made.open(folder)
    with pytest.raises(ModelError, match=r"cpu has 1e-06 GB free"):
        OmniModel.open(tmp_path)


@pytest.mark.slow
def test_eight_bits_need_less_memory_unless_a_cast_comes_first(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.model.save(tmp_path)
    needed: list[int] = []

    def check(bytes: int, what: object, device: torch.device) -> None:
        needed.append(bytes)

    monkeypatch.setattr(memory, "check", check)
    sizes, f32 = made.model.config.backbone, torch.float32
    for folder, kept in ((tmp_path, f32), (made.omni, BF16)):
        for dtype in (BF16, f32):
            for quantization in (None, "int8"):
                OmniModel.from_pretrained(
                    folder, codec_sources=made.sources, dtype=dtype, quantization=quantization
                )
            whole, less = needed[-2:]
            assert whole - less == (bytes_saved(sizes, dtype) if dtype == kept else 0)
    assert len(needed) == 8


# -- the hub -----------------------------------------------------------------------------------


def test_without_the_hub_the_fix_is_named(
    made: PublishedFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"owner/name.*huggingface_hub") as caught:
        OmniModel.from_pretrained("owner/name")
    assert caught.value.value == "huggingface_hub"
    with pytest.raises(MissingDependencyError, match="showlab/magvitv2"):
        made.open(image_codec="showlab/magvitv2")


def test_from_the_hub_only_what_is_needed(
    made: PublishedFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        if name == "owner/none":
            raise OSError("404\nnot there")
        return str(made.root / name.split("/")[1])

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    sources = replace(made.sources, speech_decoder="owner/decoder@a1b2")
    same(OmniModel.from_pretrained("owner/omni", codec_sources=sources, revision="v1"), made.model)
    assert [(name, revision) for name, revision, _ in asked] == [
        ("owner/omni", "v1"),
        ("owner/decoder", "a1b2"),
    ]
    assert asked[1][2] == ["flow.pt", "hift.pt"]
    with pytest.raises(ModelError, match=r"owner/none.*\(404\)"):
        OmniModel.from_pretrained("owner/none")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/omni").mkdir(parents=True)
    with pytest.raises(ModelError, match="no model at owner/omni"):
        OmniModel.from_pretrained("owner/omni")  # the folder here wins


# -- full size, without its memory ---------------------------------------------------------------


def test_the_full_checkpoint_is_read_name_by_name(parity_dir: Path) -> None:
    """Each published name belongs to exactly one reader; the codecs' own tests hold their lists."""
    D, V, wide, keys, layers = 3584, 176_264, 18_944, 512, 28
    expected = {EMBEDDED: [V, D], "lm_head.weight": [V, D], "model.norm.weight": [D]}
    for i in range(layers):
        stem = f"model.layers.{i}."
        for name, rows in (("q", D), ("k", keys), ("v", keys)):
            expected |= {f"{stem}self_attn.{name}_proj.weight": [rows, D]}
            expected |= {f"{stem}self_attn.{name}_proj.bias": [rows]}
        expected |= {f"{stem}self_attn.o_proj.weight": [D, D]}
        expected |= {f"{stem}mlp.{name}_proj.weight": [wide, D] for name in ("gate", "up")}
        expected |= {f"{stem}mlp.down_proj.weight": [D, wide]}
        expected |= {f"{stem}{n}_layernorm.weight": [D] for n in ("input", "post_attention")}
    speech = json.loads((parity_dir / "encoders/sensevoice_full_shapes.json").read_text())
    encoder = {name: shape for name, (shape, _) in speech["tensors"].items()}
    expected |= {name: shape for name, shape in encoder.items() if "audio_projection" in name}
    with torch.device("meta"):
        backbone = Dream(DreamConfig.dream_7b())
    assert {n: list(t.shape) for n, t in backbone.state_dict().items()} == expected
    for name in expected.keys() | encoder.keys():
        assert (dream.dream_name(name) is None) == name.startswith(OMNI_PREFIX)


def test_full_size_takes_the_memory_it_should() -> None:
    suite, official = CodecConfigs().suite, Vocabulary.official()
    voice = GlmVoiceConfig.official()
    sizes = replace(DreamConfig.dream_7b(), vocab_size=official.size)
    assert model_size(sizes, suite, voice, BF16).bytes == pytest.approx(18.9e9, rel=0.05)
