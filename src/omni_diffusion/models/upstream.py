"""Published checkpoints, read in their own layouts and loaded as the parts of one model.

Two layouts of the backbone's folder are known, distinguished by its tokenizer. Omni-Diffusion's
weights include the speech encoder. The vocabulary of plain Dream-7B is extended here, as the start
of training. Image and speech codecs lie in folders of their own. Weights are read as tensors
only; no code and no YAML of a checkpoint is ever run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
from omni_diffusion.io import files, memory, weights
from omni_diffusion.models.dtypes import DtypeChoice, checked_dtype, compute_dtype
from omni_diffusion.models.hub import HubSource, locate, locate_cached
from omni_diffusion.models.sizes import mapped_bytes, model_size
from omni_diffusion.vocab import SPECIAL_TOKENS, Vocabulary

IMAGE_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("config.json", "model.safetensors")
DECODER_FILES = ("flow.pt", "hift.pt")
ENCODER_FILE = "model.pt"

DREAM_TOKENS = SPECIAL_TOKENS[: SPECIAL_TOKENS.index("<|mask|>") + 1]  # those of Dream-7B itself
FIRST_NEW_TOKEN = "<|begin_of_audio|>"  # a token that Dream-7B lacks
SPEECH_TOKEN = re.compile(r"<\|audio_\d+\|>")
IMAGE_TOKEN = re.compile(r"<\|image_\d+\|>")
SEED = 0  # of all new weights
NOISE = 0.1  # of initializer_range: new rows differ, yet start near the mean
# our field -> field of the speech tokenizer's config.json
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
class CodecConfigs:
    """Configs of the codecs whose published files do not state their sizes."""

    image: Magvit2Config = field(default_factory=Magvit2Config.official)
    hearing: SenseVoiceConfig = field(default_factory=SenseVoiceConfig.official)
    flow: FlowConfig = field(default_factory=FlowConfig.official)
    vocoder: HiFTConfig = field(default_factory=HiFTConfig.official)

    @property
    def suite(self) -> SuiteConfig:
        """The configs that `CodecSuite` takes."""
        return SuiteConfig(self.image, self.hearing)


@dataclass(frozen=True)
class CodecSources:
    """Where the codecs of a published backbone come from.

    speech_encoder: the folder of SenseVoiceSmall with am.mvn, or that file itself. Its model.pt is
    read only if the backbone's folder has no speech encoder (Dream-7B). sizes: the configs that the
    published files do not state.
    """

    image_codec: HubSource = "showlab/magvitv2"
    speech_tokenizer: HubSource = "THUDM/glm-4-voice-tokenizer"
    speech_decoder: HubSource = "THUDM/glm-4-voice-decoder"
    speech_encoder: HubSource = "FunAudioLLM/SenseVoiceSmall"
    sizes: CodecConfigs = field(default_factory=CodecConfigs)


@dataclass(frozen=True, eq=False)
class LoadedParts:
    """All parts of one model: the backbone on the CPU, the codecs in float32 on their device."""

    name: str
    vocabulary: Vocabulary
    codecs: CodecSuite
    backbone: Dream


@dataclass(frozen=True)
class PublishedConfigs:
    """The configs of a published checkpoint. dtype: of its backbone, as stored."""

    backbone: DreamConfig
    codecs: SuiteConfig
    voice: GlmVoiceConfig
    dtype: torch.dtype


def read_configs(folder: Path, sources: CodecSources) -> PublishedConfigs:
    """The configs of a checkpoint of Omni-Diffusion or Dream-7B, without its weights.

    The published sizes replace those of a speech tokenizer that is not on this machine. Raises
    ModelError or ConfigError for a config.json that is missing or of another model.
    """
    data, sizes = _read_dream_config(folder), sources.sizes
    source = sources.speech_tokenizer
    tokenizer = Path(source) if files.exists(source) else locate_cached(source, TOKENIZER_FILES)
    if tokenizer is not None and files.is_file(tokenizer / "config.json"):
        voice = _voice_config(tokenizer, sizes)
    else:
        official = SpeechTokenizerConfig.official()
        official = replace(official, codebook_size=sizes.flow.vocab_size)
        voice = GlmVoiceConfig(official, sizes.flow, sizes.vocoder)
    backbone = DreamConfig.from_upstream(data, sizes.hearing.dim)
    if not is_omni_diffusion(folder):
        vocabulary = Vocabulary(
            text_size=len(read_json(folder / "vocab.json")),
            speech_size=voice.tokenizer.codebook_size,
            image_size=sizes.image.codes,
        )
        backbone = replace(backbone, vocab_size=vocabulary.size)
    return PublishedConfigs(backbone, sizes.suite, voice, _stored_dtype(data))


def is_omni_diffusion(folder: Path) -> bool:
    """Whether the tokens are Omni-Diffusion's, not Dream-7B's; True if no file lists them."""
    try:
        return FIRST_NEW_TOKEN in _added_tokens(folder)
    except ModelError:
        return True


def load(
    folder: Path,
    sources: CodecSources,
    dtype: DtypeChoice,
    device: torch.device,
    *,
    quantization: Quantization | None = None,
    mapped: bool = False,
) -> LoadedParts:
    """Load a checkpoint of Omni-Diffusion or Dream-7B with its codecs.

    dtype: of the backbone, None = as stored. device: of the codecs. The backbone stays on the CPU,
    but the memory check counts it on `device`, where the caller moves it. quantization: how the
    caller will quantize the backbone, for the memory check. mapped: the backbone is only written
    elsewhere, so its weights stay in their files. Dream-7B is extended by `extend_vocabulary`.

    Raises ModelError for another model, other ids and too little memory, all before weights are
    read; WeightsError for weights that are missing, broken or of another shape; ConfigError.
    """
    data = _read_dream_config(folder)
    text = TextCodec.from_bpe(folder / "vocab.json", folder / "merges.txt")
    is_omni = _check_ids(folder, data, text)
    local = _locate_codecs(sources, with_encoder=not is_omni)
    voice = _voice_config(Path(local.speech_tokenizer), sources.sizes)
    vocabulary = Vocabulary(
        text_size=text.vocabulary_size,
        speech_size=voice.tokenizer.codebook_size,
        image_size=sources.sizes.image.codes,
    )
    stored = DreamConfig.from_upstream(data, sources.sizes.hearing.dim)
    _check_count(folder, vocabulary, stored, is_omni)
    config = replace(stored, vocab_size=vocabulary.size)
    stored_dtype = _stored_dtype(data)
    dtype = compute_dtype(dtype, stored_dtype)
    needed = model_size(config, sources.sizes.suite, voice, dtype).bytes
    if mapped:
        needed -= mapped_bytes(config, dtype, extended=not is_omni)
    if quantization is not None and (dtype == stored_dtype or device.type != "cpu"):
        # a cast on the CPU first makes the weights whole
        needed -= bytes_saved(config, dtype, quantization)
    memory.check(needed, folder, device)
    tensors = weights.read_tensors(folder)
    initial = tensors if is_omni else extend_vocabulary(tensors, stored, vocabulary)
    return LoadedParts(
        name="omni-diffusion" if is_omni else "dream",
        vocabulary=vocabulary,
        backbone=_load_backbone(initial, config, dtype, folder),
        codecs=CodecSuite(
            text=text,
            image=Magvit2.load(local.image_codec, sources.sizes.image).to(device),
            hearing=_load_speech_encoder(tensors if is_omni else None, local, folder).to(device),
            speech=_load_voice(local, voice).to(device),
        ),
    )


def extend_vocabulary(
    tensors: Mapping[str, Tensor], stored: DreamConfig, vocabulary: Vocabulary
) -> dict[str, Tensor]:
    """Dream-7B's tensors [152064, D] with a row for each id of `vocabulary`, and an adapter.

    Rows of the ids that Dream-7B has a token for stay the same, bit by bit. All others, including
    Dream's filler rows without a token, become the mean of those that stay plus normal noise of a
    tenth of initializer_range, drawn with a fixed seed. The adapter starts like every linear layer
    of Dream: normal with initializer_range, and layer norm at 1 and 0.
    """
    generator = torch.Generator().manual_seed(SEED)
    extended = dict(tensors)
    known = vocabulary.text_size + len(DREAM_TOKENS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = tensors.get(name)
        if rows is not None and rows.shape == (stored.vocab_size, stored.hidden_size):
            std = NOISE * stored.initializer_range
            extended[name] = _append_rows(rows[:known], vocabulary.size, std, generator)
    adapter = SpeechAdapter(stored.speech_dim, stored.hidden_size)
    for layer in adapter.mlp:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=stored.initializer_range, generator=generator)
    # The caller casts them to the stored dtype when it loads them.
    return extended | {f"model.audio_projection.{n}": t for n, t in adapter.state_dict().items()}


def _append_rows(rows: Tensor, size: int, std: float, generator: torch.Generator) -> Tensor:
    """Rows [n, D], then their mean plus noise, up to [size, D]; in the dtype of the rows."""
    mean = rows.mean(0, dtype=torch.float32)
    noise = torch.randn(size - len(rows), rows.shape[1], generator=generator)
    return torch.cat([rows, (mean + std * noise).to(rows.dtype)])


# -- the checkpoint's config and tokenizer ------------------------------------------------------


def _read_dream_config(folder: Path) -> dict[str, Any]:
    """config.json of a Dream; raises ModelError for another model."""
    path = folder / "config.json"
    data = read_json(path)
    architectures = data.get("architectures") or []
    names = [data.get("model_type"), *architectures]
    if not all(str(name).lower().startswith("dream") for name in names):
        raise ModelError(
            f"{path} is of model_type {names[0]!r}, architectures {architectures}",
            value=names[0],
            fix="give the folder of Omni-Diffusion or Dream-7B ('Dream', ['DreamModel'])",
        )
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; raises ModelError with its path."""
    try:
        data = json.loads(files.read_text(path))
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror})", fix="download it") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error})", fix="download it again") from error
    if not isinstance(data, dict):
        raise ModelError(
            f"{path} holds {type(data).__name__}, expected an object", fix="download it again"
        )
    return data


def _stored_dtype(data: Mapping[str, Any]) -> torch.dtype:
    for key in ("torch_dtype", "dtype"):  # the older name and the newer one
        if data.get(key) is not None:
            return checked_dtype(data[key], f"{key} in config.json")
    return torch.float32


def _check_ids(folder: Path, data: Mapping[str, Any], text: TextCodec) -> bool:
    """Whether the tokens are those of Omni-Diffusion; False = those of Dream-7B.

    Raises ModelError if they are neither, or have other ids.
    """
    count = text.vocabulary_size
    vocab = read_json(folder / "vocab.json")
    if sorted(vocab.values()) != [*range(count)]:
        raise ModelError(
            f"{folder / 'vocab.json'} has gaps in its ids 0..{count - 1}", fix="download it again"
        )
    added = _added_tokens(folder)
    is_omni = FIRST_NEW_TOKEN in added
    expected = _expected_tokens(added, count) if is_omni else _numbered(DREAM_TOKENS, count)
    for token in (*expected, *added):
        actual, correct = added.get(token), expected.get(token)
        if actual != correct:
            raise ModelError(
                f"{folder}: {token} has id {actual or 'none'}, expected {correct or 'none'}",
                value=actual,
                fix="use the tokenizer files that were published with these weights",
            )
    for name, token in (("mask_token_id", "<|mask|>"), ("pad_token_id", "<|endoftext|>")):
        if data.get(name, expected[token]) != expected[token]:
            raise ModelError(
                f"{folder / 'config.json'}: {name} is {data[name]}, the tokenizer has {token} at"
                f" {expected[token]}",
                value=data[name],
                fix="use files of one model",
            )
    return is_omni


def _added_tokens(folder: Path) -> dict[str, int]:
    """Ids of the tokens beside the byte pairs: added_tokens.json, else tokenizer_config.json."""
    path = folder / "added_tokens.json"
    if files.is_file(path):
        return read_json(path)
    tokens: Any = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    try:
        return {token["content"]: int(id) for id, token in tokens.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder} lists no added tokens", fix="download added_tokens.json"
        ) from error


def _expected_tokens(added: Mapping[str, int], text_size: int) -> dict[str, int]:
    """All tokens after the byte pairs, with as many speech and image tokens as there are."""
    vocabulary = Vocabulary(
        text_size=text_size,
        speech_size=sum(SPEECH_TOKEN.fullmatch(token) is not None for token in added),
        image_size=sum(IMAGE_TOKEN.fullmatch(token) is not None for token in added),
    )
    ids = range(vocabulary.specials.start, vocabulary.size)
    return _numbered([vocabulary.token(id) for id in ids], text_size)


def _numbered(tokens: Sequence[str], start: int) -> dict[str, int]:
    return {token: id for id, token in enumerate(tokens, start)}


def _check_count(folder: Path, vocabulary: Vocabulary, stored: DreamConfig, is_omni: bool) -> None:
    """Check that tokenizer, codecs and backbone have the same number of ids."""
    tokens = vocabulary.text_size + len(_added_tokens(folder))
    if not is_omni and stored.vocab_size < tokens:
        raise ModelError(
            f"{folder}: config.json has a vocab_size of {stored.vocab_size}, the tokenizer"
            f" {tokens} tokens",
            value=stored.vocab_size,
            fix="use files of one model",
        )
    if not is_omni:
        return
    counts = (("config.json's vocab_size", stored.vocab_size), ("its tokenizer's count", tokens))
    for what, count in counts:
        if count != vocabulary.size:
            raise ModelError(
                f"{folder}: {what} is {count}, with these codecs it is {vocabulary.size}",
                value=count,
                fix="use parts and sizes of one model",
            )


# -- the weights --------------------------------------------------------------------------------


def _locate_codecs(sources: CodecSources, with_encoder: bool) -> CodecSources:
    """The same sources, all on this machine."""
    encoder_files = (CMVN_FILE, ENCODER_FILE) if with_encoder else (CMVN_FILE,)
    return replace(
        sources,
        image_codec=locate(sources.image_codec, IMAGE_FILES),
        speech_tokenizer=locate(sources.speech_tokenizer, TOKENIZER_FILES),
        speech_decoder=locate(sources.speech_decoder, DECODER_FILES),
        speech_encoder=locate(sources.speech_encoder, encoder_files),
    )


def _voice_config(tokenizer: Path, sizes: CodecConfigs) -> GlmVoiceConfig:
    """Config of the speech codec: the tokenizer's from its config.json, the others as given."""
    path = tokenizer / "config.json"
    data = read_json(path)
    for name, expected in (("model_type", "whisper"), ("pooling_type", "avg")):
        if data.get(name, expected) != expected:
            raise ModelError(
                f"{path} has {name} {data[name]!r}, expected {expected!r}",
                field="speech_tokenizer",
                value=data[name],
                fix="give the folder of glm-4-voice-tokenizer",
            )
    stated = {ours: data[theirs] for ours, theirs in TOKENIZER_FIELDS.items() if theirs in data}
    config = configs.from_dict(SpeechTokenizerConfig, stated, where=str(path))
    resampling = SpeechTokenizerConfig.official().resampling  # whatever its sizes
    return GlmVoiceConfig(replace(config, resampling=resampling), sizes.flow, sizes.vocoder)


def _load_backbone(
    tensors: Mapping[str, Tensor], config: DreamConfig, dtype: torch.dtype, folder: Path
) -> Dream:
    with weights.empty_modules():  # the tensors of the files become the weights
        backbone = Dream(config).to(dtype)
    where = f"the weights at {folder}"
    weights.load_into(backbone, tensors, rename=dream.dream_name, where=where)
    return backbone


def _load_speech_encoder(
    tensors: Mapping[str, Tensor] | None, local: CodecSources, folder: Path
) -> SenseVoice:
    """The encoder from the backbone's tensors, or if they are None from its own folder."""
    source, config = Path(local.speech_encoder), local.sizes.hearing
    path = source / CMVN_FILE if files.is_dir(source) else source
    cmvn = fbank.read_cmvn(path)
    if cmvn.shape[1] != config.feature_width:
        raise WeightsError(
            f"{path} is for features of {cmvn.shape[1]} values, expected {config.feature_width}",
            field="speech_encoder",
            value=cmvn.shape[1],
            fix="give SenseVoiceSmall's am.mvn",
        )
    if tensors is None:
        return SenseVoice.load(path.with_name(ENCODER_FILE), config, cmvn)
    # Other names are the backbone's: loading it has already reported unknown ones.
    encoder = {name: t for name, t in tensors.items() if name.startswith(OMNI_PREFIX)}
    if not encoder:
        raise WeightsError(
            f"{folder} holds no {OMNI_PREFIX}*, the speech encoder", fix="download every shard"
        )
    return SenseVoice.load(encoder, config, cmvn)


def _load_voice(local: CodecSources, config: GlmVoiceConfig) -> GlmVoice:
    tokenizer, decoder = Path(local.speech_tokenizer), Path(local.speech_decoder)
    return GlmVoice(
        SpeechTokenizer.load(tokenizer / "model.safetensors", config.tokenizer),
        Flow.load(decoder / "flow.pt", config.flow),
        HiFT.load(decoder / "hift.pt", local.sizes.vocoder),
    ).eval()
