"""Published files as their makers laid them out, opened as the parts of one model.

Two layouts of the backbone's folder are known, told apart by its tokenizer: Omni-Diffusion, whose
weights hold the hearing encoder too, and plain Dream-7B, which is widened here to start a training
from. Picture and speech codecs lie in folders of their own. Weights are read as tensors alone; no
code and no YAML of a checkpoint is ever run. Knows nothing of tasks and of our own folder layout,
which is `model`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from omni_diffusion.backbone import dream
from omni_diffusion.backbone.adapter import SpeechAdapter
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.backbone.quantization import Quantization, bytes_saved
from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoice, GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow, FlowConfig
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.magvit2 import Magvit2, Magvit2Config
from omni_diffusion.codecs.sensevoice import CMVN_FILE, OMNI_PREFIX, SenseVoice, SenseVoiceConfig
from omni_diffusion.codecs.suite import CodecSuite, SuiteConfig
from omni_diffusion.codecs.text import TextCodec
from omni_diffusion.errors import ModelError, WeightsError
from omni_diffusion.io import config as configs
from omni_diffusion.io import memory, weights
from omni_diffusion.vocab import SPECIAL_TOKENS, Vocabulary

Place: TypeAlias = str | Path  # a folder, or owner/name or owner/name@revision on the hub

BACKBONE_FILES = ("*.safetensors", "*.json", "*.mvn", "merges.txt")  # also those of our layout
IMAGE_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("config.json", "model.safetensors")
DECODER_FILES = ("flow.pt", "hift.pt")
ENCODER_FILE = "model.pt"

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DREAM_TOKENS = SPECIAL_TOKENS[: SPECIAL_TOKENS.index("<|mask|>") + 1]  # those of Dream-7B itself
FIRST_OWN = "<|begin_of_audio|>"  # a token that Dream-7B lacks
SPEECH_TOKEN = re.compile(r"<\|audio_\d+\|>")
IMAGE_TOKEN = re.compile(r"<\|image_\d+\|>")
LONGEST = 3072  # places of a row in the paper's training
SEED = 0  # of all that is newly made
NOISE = 0.1  # of initializer_range: new rows differ, yet start near the mean
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# field of ours -> field of the speech tokenizer's config.json
TOKENIZER_FIELDS = {
    "d_model": "d_model",
    "heads": "encoder_attention_heads",
    "ffn": "encoder_ffn_dim",
    "layers": "quantize_position",  # the published encoder is cut where it is quantized
    "n_mels": "num_mel_bins",
    "max_positions": "max_source_positions",
    "codebook_size": "quantize_vocab_size",
    "block_size": "quantize_causal_block_size",
    "pool": "pooling_kernel_size",
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts whose published files tell none; by default the published ones."""

    image: Magvit2Config = field(default_factory=Magvit2Config.official)
    hearing: SenseVoiceConfig = field(default_factory=SenseVoiceConfig.official)
    flow: FlowConfig = field(default_factory=FlowConfig.official)
    vocoder: HiFTConfig = field(default_factory=HiFTConfig.official)


@dataclass(frozen=True)
class Parts:
    """Where the parts beside the backbone are: each a folder, or owner/name[@revision] on the hub.

    hearing: SenseVoiceSmall's folder with am.mvn, or that file itself. Its model.pt is read only
    where the backbone's folder holds no hearing encoder (Dream-7B).
    """

    image_codec: Place = "showlab/magvitv2"
    speech_tokenizer: Place = "THUDM/glm-4-voice-tokenizer"
    speech_decoder: Place = "THUDM/glm-4-voice-decoder"
    hearing: Place = "FunAudioLLM/SenseVoiceSmall"
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True, eq=False)
class Opened:
    """All parts of one model: the backbone on the CPU, codecs where asked for and in float32."""

    name: str
    vocabulary: Vocabulary
    codecs: CodecSuite
    backbone: Dream


def locate(place: Place, files: Sequence[str], revision: str | None = None) -> Path:
    """The folder or file at `place`; a hub id only where nothing of that name is here.

    From the hub come the `files` (patterns) alone. Raises ModelError when there is neither, and
    when the hub's own package is not installed or fails.
    """
    if Path(place).exists():
        return Path(place)
    name, _, pinned = str(place).partition("@")
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"nothing at {place}; give a folder, or owner/name on the hub")
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise ModelError(
            f"no folder {place} here, and no huggingface_hub to fetch it with; give a folder or"
            " run: pip install huggingface_hub"
        ) from error
    try:
        found = hub.snapshot_download(
            name, revision=revision or pinned or None, allow_patterns=list(files)
        )
    except Exception as error:  # its own kinds, and those of the network below it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"no folder {place} here, and the hub did not give it ({reason}); give a folder, or"
            " check the name and the connection"
        ) from error
    return Path(found)


def fetched(place: Place, files: Sequence[str]) -> Path | None:
    """Where the hub's package keeps what it fetched of `place` before; None = nowhere."""
    name, _, pinned = str(place).partition("@")
    try:
        hub = import_module("huggingface_hub")
        found = hub.snapshot_download(
            name, revision=pinned or None, allow_patterns=list(files), local_files_only=True
        )
    except Exception:  # not installed, not fetched, no name of the hub
        return None
    return Path(found)


@dataclass(frozen=True)
class Told:
    """What a folder's small files say: sizes of all parts, and the dtype of the backbone."""

    backbone: DreamConfig
    codecs: SuiteConfig
    voice: GlmVoiceConfig
    dtype: torch.dtype


def told(folder: Path, parts: Parts) -> Told:
    """Sizes of Omni-Diffusion's or Dream-7B's folder as it would open, by its small files alone.

    The published sizes stand in for those of a speech tokenizer that is not here. Raises
    ModelError or ConfigError for a config.json that is missing or of another model.
    """
    data, sizes = _config(folder), parts.sizes
    place = parts.speech_tokenizer
    tokenizer = Path(place) if Path(place).exists() else fetched(place, TOKENIZER_FILES)
    if tokenizer is not None and (tokenizer / "config.json").is_file():
        voice = _voice_sizes(tokenizer, sizes)
    else:
        listener = SpeechTokenizerConfig.official()
        listener = replace(listener, codebook_size=sizes.flow.vocab_size)
        voice = GlmVoiceConfig(listener, sizes.flow, sizes.vocoder)
    backbone = DreamConfig.from_published(data, sizes.hearing.dim)
    if not is_trained(folder):
        vocabulary = Vocabulary.build(
            text=len(read_json(folder / "vocab.json")),
            speech=voice.tokenizer.codebook_size,
            image=sizes.image.codes,
        )
        backbone = replace(backbone, vocab_size=vocabulary.size)
    suite = SuiteConfig(sizes.image, sizes.hearing)
    return Told(backbone, suite, voice, _stored_dtype(data))


def is_trained(folder: Path) -> bool:
    """Whether the tokens are Omni-Diffusion's, not Dream-7B's; where they are not told, yes."""
    try:
        return FIRST_OWN in _added(folder)
    except ModelError:
        return True


def read(
    folder: Path,
    parts: Parts,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    quantization: Quantization | None = None,
    mapped: bool = False,
) -> Opened:
    """Open Omni-Diffusion's or Dream-7B's folder together with its other parts.

    dtype is the backbone's, None = as stored; the backbone stays on the CPU. device: where the
    codecs go, and all of it is to go, so that there must be room for it. quantization: what the
    backbone will be. mapped: the backbone is not computed with, only written elsewhere, so that
    its weights stay in their files. Dream-7B is widened: see `widened`. Raises ModelError for
    another model, other ids and too little memory, all before weights are read; WeightsError for
    weights that are missing, broken or of other sizes; ConfigError.
    """
    data = _config(folder)
    text = TextCodec.from_bpe(folder / "vocab.json", folder / "merges.txt")
    trained = _check_ids(folder, data, text)
    found = _located(parts, with_encoder=not trained)
    voice = _voice_sizes(Path(found.speech_tokenizer), parts.sizes)
    vocabulary = Vocabulary.build(
        text=text.vocabulary_size,
        speech=voice.tokenizer.codebook_size,
        image=parts.sizes.image.codes,
    )
    stored = DreamConfig.from_published(data, parts.sizes.hearing.dim)
    _check_count(folder, vocabulary, stored, trained)
    sizes = replace(stored, vocab_size=vocabulary.size)
    kept = _stored_dtype(data)
    dtype = dtype or kept
    suite = SuiteConfig(parts.sizes.image, parts.sizes.hearing)
    needed = needed_bytes(sizes, suite, voice, dtype)
    if mapped:
        needed -= _mapped_bytes(sizes, trained, dtype)
    if quantization is not None and (dtype == kept or device.type != "cpu"):
        needed -= bytes_saved(sizes, dtype)  # a cast on the CPU makes them whole first
    memory.check(needed, folder, device)
    tensors = weights.read(folder)
    start = tensors if trained else widened(tensors, stored, vocabulary)
    return Opened(
        name="omni-diffusion" if trained else "dream",
        vocabulary=vocabulary,
        backbone=_backbone(start, sizes, dtype, folder),
        codecs=CodecSuite(
            text=text,
            image=Magvit2.load(found.image_codec, parts.sizes.image).to(device),
            hearing=_hearing(tensors if trained else None, found, folder).to(device),
            speech=_voice(found, voice).to(device),
        ),
    )


def widened(
    tensors: Mapping[str, Tensor], stored: DreamConfig, vocabulary: Vocabulary
) -> dict[str, Tensor]:
    """Dream-7B's tensors [152064, D] with a row for each id of `vocabulary`, and an adapter.

    Rows of the ids that Dream-7B has a token for stay as they are, bit by bit. All others,
    Dream's filler rows that no token owns among them, become the mean of those that stay plus
    normal noise of a tenth of initializer_range, drawn with a fixed seed. The adapter starts as
    every linear layer of Dream does: normal of initializer_range, its layer norm at 1 and 0.
    """
    generator = torch.Generator().manual_seed(SEED)
    grown = dict(tensors)
    kept = vocabulary.text_size + len(DREAM_TOKENS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = tensors.get(name)
        if rows is not None and rows.shape == (stored.vocab_size, stored.hidden_size):
            std = NOISE * stored.initializer_range
            grown[name] = _more_rows(rows[:kept], vocabulary.size, std, generator)
    adapter = SpeechAdapter(stored.speech_dim, stored.hidden_size)
    for layer in adapter.mlp:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=stored.initializer_range, generator=generator)
    # A cast to the stored dtype is left to whoever loads them.
    return grown | {f"model.audio_projection.{n}": t for n, t in adapter.state_dict().items()}


def _more_rows(rows: Tensor, size: int, std: float, generator: torch.Generator) -> Tensor:
    """Rows [n, D], then their mean plus noise, up to [size, D]; in the dtype of the rows."""
    mean = rows.mean(0, dtype=torch.float32)
    noise = torch.randn(size - len(rows), rows.shape[1], generator=generator)
    return torch.cat([rows, (mean + std * noise).to(rows.dtype)])


def parameters(backbone: DreamConfig, codecs: SuiteConfig, voice: GlmVoiceConfig) -> dict[str, int]:
    """How many parameters each part has, by its name; a Griffin-Lim has none and no name."""
    with torch.device("meta"):  # takes no memory
        dream = Dream(backbone)
        modules: dict[str, nn.Module] = {
            "image": Magvit2(codecs.image),
            "speech_encoder": SenseVoice(codecs.hearing),
            "speech_tokenizer": SpeechTokenizer(voice.tokenizer),
            "speech_flow": Flow(voice.flow),
        }
        if isinstance(voice.vocoder, HiFTConfig):
            modules["speech_vocoder"] = HiFT(voice.vocoder)
    modules["speech_projector"] = dream.model.audio_projection
    counts = {name: _count(module) for name, module in modules.items()}
    return {"backbone": _count(dream) - counts["speech_projector"], **counts}


def needed_bytes(
    backbone: DreamConfig, codecs: SuiteConfig, voice: GlmVoiceConfig, dtype: torch.dtype
) -> int:
    """Memory that all parts take: the backbone with its adapter in `dtype`, codecs in float32."""
    counts = parameters(backbone, codecs, voice)
    own = counts.pop("backbone") + counts.pop("speech_projector")
    return own * dtype.itemsize + 4 * sum(counts.values())


# -- what the folder says of itself -----------------------------------------------------------


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a Dream; ModelError for that of another model."""
    path = folder / "config.json"
    data = read_json(path)
    architectures = data.get("architectures") or []
    names = [data.get("model_type"), *architectures]
    if not all(str(name).lower().startswith("dream") for name in names):
        raise ModelError(
            f"{path} is of model_type {names[0]!r}, architectures {architectures}; give the folder"
            " of Omni-Diffusion or Dream-7B ('Dream', ['DreamModel'])"
        )
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; raises ModelError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}); fetch it") from error
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON ({error}); fetch it again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds {type(data).__name__}, expected an object; fetch it again")
    return data


def _stored_dtype(data: Mapping[str, Any]) -> torch.dtype:
    name = str(data.get("torch_dtype") or data.get("dtype") or "float32")  # newer: "dtype"
    if name not in DTYPES:
        raise ModelError(f"config.json has torch_dtype {name!r}; give dtype, {', '.join(DTYPES)}")
    return DTYPES[name]


def _check_ids(folder: Path, data: Mapping[str, Any], text: TextCodec) -> bool:
    """Whether the folder's tokens are all those of Omni-Diffusion; False = those of Dream-7B.

    Raises ModelError when they are neither, or have other ids.
    """
    count = text.vocabulary_size
    words = read_json(folder / "vocab.json")
    if sorted(words.values()) != [*range(count)]:
        raise ModelError(f"{folder / 'vocab.json'} has gaps in its ids 0..{count - 1}; fetch it")
    added = _added(folder)
    trained = FIRST_OWN in added
    expected = _expected(added, count) if trained else _numbered(DREAM_TOKENS, count)
    for token in (*expected, *added):
        found, wanted = added.get(token), expected.get(token)
        if found != wanted:
            raise ModelError(
                f"{folder}: {token} has id {found or 'none'}, expected {wanted or 'none'};"
                " use the tokenizer files that were published with these weights"
            )
    for field_name, token in (("mask_token_id", "<|mask|>"), ("pad_token_id", "<|endoftext|>")):
        if data.get(field_name, expected[token]) != expected[token]:
            raise ModelError(
                f"{folder / 'config.json'}: {field_name} is {data[field_name]}, the tokenizer has"
                f" {token} at {expected[token]}; use files of one model"
            )
    return trained


def _added(folder: Path) -> dict[str, int]:
    """Ids of the tokens beside the byte pairs: added_tokens.json, else tokenizer_config.json."""
    path = folder / "added_tokens.json"
    if path.is_file():
        return read_json(path)
    rows: Any = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    try:
        return {row["content"]: int(id) for id, row in rows.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} lists no added tokens; fetch added_tokens.json") from error


def _expected(added: Mapping[str, int], text_size: int) -> dict[str, int]:
    """Every token after the byte pairs, with as many speech and image tokens as there are."""
    vocabulary = Vocabulary.build(
        text=text_size,
        speech=sum(SPEECH_TOKEN.fullmatch(token) is not None for token in added),
        image=sum(IMAGE_TOKEN.fullmatch(token) is not None for token in added),
    )
    ids = range(vocabulary.specials.start, vocabulary.size)
    return _numbered([vocabulary.token(id) for id in ids], text_size)


def _numbered(tokens: Sequence[str], start: int) -> dict[str, int]:
    return {token: id for id, token in enumerate(tokens, start)}


def _check_count(folder: Path, vocabulary: Vocabulary, stored: DreamConfig, trained: bool) -> None:
    """That tokenizer, codecs and backbone count the same ids."""
    named = vocabulary.text_size + len(_added(folder))
    if not trained and stored.vocab_size < named:
        raise ModelError(
            f"{folder}: config.json has a vocab_size of {stored.vocab_size}, the tokenizer"
            f" {named} tokens; use files of one model"
        )
    if not trained:
        return
    counts = (("config.json's vocab_size", stored.vocab_size), ("its tokenizer's count", named))
    for what, count in counts:
        if count != vocabulary.size:
            raise ModelError(
                f"{folder}: {what} is {count}, with these codecs it is {vocabulary.size}; use"
                " parts and sizes of one model"
            )


# -- the parts --------------------------------------------------------------------------------


def _located(parts: Parts, with_encoder: bool) -> Parts:
    hearing = (CMVN_FILE, ENCODER_FILE) if with_encoder else (CMVN_FILE,)
    return replace(
        parts,
        image_codec=locate(parts.image_codec, IMAGE_FILES),
        speech_tokenizer=locate(parts.speech_tokenizer, TOKENIZER_FILES),
        speech_decoder=locate(parts.speech_decoder, DECODER_FILES),
        hearing=locate(parts.hearing, hearing),
    )


def _voice_sizes(tokenizer: Path, sizes: Sizes) -> GlmVoiceConfig:
    """Sizes of the speech codec: the tokenizer's from its config.json, the others as given."""
    path = tokenizer / "config.json"
    data = read_json(path)
    for name, wanted in (("model_type", "whisper"), ("pooling_type", "avg")):
        if data.get(name, wanted) != wanted:
            raise ModelError(
                f"{path} has {name} {data[name]!r}, expected {wanted!r}; give the folder of"
                " glm-4-voice-tokenizer"
            )
    told = {ours: data[theirs] for ours, theirs in TOKENIZER_FIELDS.items() if theirs in data}
    listener = configs.from_dict(SpeechTokenizerConfig, told, where=str(path))
    heard = SpeechTokenizerConfig.official().resampling  # whatever its sizes
    return GlmVoiceConfig(replace(listener, resampling=heard), sizes.flow, sizes.vocoder)


def _mapped_bytes(sizes: DreamConfig, trained: bool, dtype: torch.dtype) -> int:
    """What of the backbone stays in its files: all, but for embeddings and head if widened."""
    with torch.device("meta"):
        dream = Dream(sizes)
    grown = 0 if trained else 2 * sizes.vocab_size * sizes.hidden_size
    return (_count(dream) - grown) * dtype.itemsize


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _backbone(
    tensors: Mapping[str, Tensor], sizes: DreamConfig, dtype: torch.dtype, folder: Path
) -> Dream:
    with torch.device("meta"):  # no random start; the tensors of the files become the weights
        backbone = Dream(sizes).to(dtype)
    where = f"the weights at {folder}"
    weights.load_into(backbone, tensors, rename=dream.rename, where=where)
    return backbone


def _hearing(tensors: Mapping[str, Tensor] | None, found: Parts, folder: Path) -> SenseVoice:
    """The encoder: out of the backbone's tensors, or where they are None from its own folder."""
    place, config = Path(found.hearing), found.sizes.hearing
    path = place / CMVN_FILE if place.is_dir() else place
    cmvn = fbank.read_cmvn(path)
    if cmvn.shape[1] != config.feature_width:
        raise WeightsError(
            f"{path} is for features of {cmvn.shape[1]} values, expected {config.feature_width};"
            " give SenseVoiceSmall's am.mvn"
        )
    if tensors is not None:
        # Names elsewhere are the backbone's, whose table has told of unknown ones already.
        own = {name: t for name, t in tensors.items() if name.startswith(OMNI_PREFIX)}
        if not own:
            raise WeightsError(
                f"{folder} holds no {OMNI_PREFIX}*, the hearing encoder; fetch every shard"
            )
        return SenseVoice.load(own, config, cmvn)
    return SenseVoice.load(path.with_name(ENCODER_FILE), config, cmvn)


def _voice(found: Parts, sizes: GlmVoiceConfig) -> GlmVoice:
    tokenizer, decoder = Path(found.speech_tokenizer), Path(found.speech_decoder)
    return GlmVoice(
        SpeechTokenizer.load(tokenizer / "model.safetensors", sizes.tokenizer),
        Flow.load(decoder / "flow.pt", sizes.flow),
        HiFT.load(decoder / "hift.pt", found.sizes.vocoder),
    ).eval()
