"""Which files of a model are here and which are missing, for our layout and the published ones.

Only the headers of weights are read, and nothing is downloaded: a codec on the hub is looked up in
the hub's local cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_diffusion.codecs.glm_voice.codec import CONFIG_FILE as SPEECH_CONFIG
from omni_diffusion.codecs.glm_voice.codec import (
    FLOW_FILE,
    TOKENIZER_FILE,
    VOCODER_FILE,
    GlmVoiceConfig,
)
from omni_diffusion.codecs.glm_voice.vocoder import HiFTConfig
from omni_diffusion.codecs.sensevoice import CMVN_FILE
from omni_diffusion.codecs.suite import HEARING_FILE, IMAGE_FILE, SPEECH_FOLDER, TEXT_FILE
from omni_diffusion.errors import ConfigError, ModelError, WeightsError
from omni_diffusion.io import config as configs
from omni_diffusion.io import files, weights
from omni_diffusion.models import upstream
from omni_diffusion.models.hub import HubSource, is_hub_id, locate_cached
from omni_diffusion.models.omni import BACKBONE_FILE, CONFIG_FILE, GENERATION_FILE, MODEL_TYPE
from omni_diffusion.models.upstream import (
    DECODER_FILES,
    ENCODER_FILE,
    IMAGE_FILES,
    TOKENIZER_FILES,
    CodecSources,
)

RESTORE = "download it again, or convert the model again"
TOKEN_FILES = ("added_tokens.json", "tokenizer_config.json")  # either will do
BYTE_PAIR_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class ModelFile:
    """A file or a set of shards. bytes: on the disk, None if it is missing or broken.

    note: how many tensors it has, or what is wrong and how to get it.
    """

    name: str
    bytes: int | None
    note: str = ""


def is_ours(folder: Path) -> bool:
    """Whether config.json has our layout, or if it is unreadable, no published file is there."""
    try:
        return upstream.read_json(folder / CONFIG_FILE).get("model_type") == MODEL_TYPE
    except ModelError:
        published = (*BYTE_PAIR_FILES, *TOKEN_FILES)
        return not any(files.is_file(folder / name) for name in published)


def list_files(folder: Path, codec_sources: CodecSources | None = None) -> list[ModelFile]:
    """All files that opening the folder reads; `codec_sources`: of a published folder."""
    if is_ours(folder):
        return [*_our_files(folder)]
    return [*_published_files(folder, codec_sources or CodecSources())]


def _our_files(folder: Path) -> Iterator[ModelFile]:
    for name in (CONFIG_FILE, GENERATION_FILE):
        yield from _plain(name, folder / name, RESTORE)
    yield from _tensors(BACKBONE_FILE, folder / BACKBONE_FILE, RESTORE)
    yield from _plain(TEXT_FILE, folder / TEXT_FILE, RESTORE)
    for name in (IMAGE_FILE, HEARING_FILE):
        yield from _tensors(name, folder / name, RESTORE)
    fix = "copy the published one of SenseVoiceSmall here, or convert the model again"
    yield from _plain(CMVN_FILE, folder / CMVN_FILE, fix)
    speech = folder / SPEECH_FOLDER
    yield from _plain(f"{SPEECH_FOLDER}/{SPEECH_CONFIG}", speech / SPEECH_CONFIG, RESTORE)
    names = [TOKENIZER_FILE, FLOW_FILE]
    try:
        vocoder = configs.load(GlmVoiceConfig, speech / SPEECH_CONFIG).vocoder
        names += [VOCODER_FILE] if isinstance(vocoder, HiFTConfig) else []
    except ConfigError:
        pass  # a missing file is listed above; a broken one is an error when sizes are read
    for name in names:
        yield from _tensors(f"{SPEECH_FOLDER}/{name}", speech / name, RESTORE)


def _published_files(folder: Path, sources: CodecSources) -> Iterator[ModelFile]:
    fix = f"download it into {folder}"
    tokens = next((name for name in TOKEN_FILES if files.is_file(folder / name)), TOKEN_FILES[0])
    for name in (CONFIG_FILE, *BYTE_PAIR_FILES, tokens):
        yield from _plain(name, folder / name, fix)
    yield from _tensors("backbone", folder, fix)

    place, fix = _codec_folder(sources.image_codec, IMAGE_FILES, "image_codec")
    yield from _tensors("image codec", place, fix)

    place, fix = _codec_folder(sources.speech_tokenizer, TOKENIZER_FILES, "speech_tokenizer")
    sizes, tensors = (place and place / name for name in TOKENIZER_FILES)
    yield from _plain("speech tokenizer: config.json", sizes, fix)
    yield from _tensors("speech tokenizer", tensors, fix)

    place, fix = _codec_folder(sources.speech_decoder, DECODER_FILES, "speech_decoder")
    for name in DECODER_FILES:
        yield from _tensors(f"speech decoder: {name}", place and place / name, fix)

    is_omni = upstream.is_omni_diffusion(folder)
    names = (CMVN_FILE,) if is_omni else (CMVN_FILE, ENCODER_FILE)
    place, fix = _codec_folder(sources.speech_encoder, names, "speech_encoder")
    path = place / CMVN_FILE if place and files.is_dir(place) else place
    yield from _plain(f"speech encoder: {CMVN_FILE}", path, fix)
    if not is_omni:  # Omni-Diffusion's backbone files hold it
        encoder = path and path.with_name(ENCODER_FILE)
        yield from _tensors(f"speech encoder: {ENCODER_FILE}", encoder, fix)


def _codec_folder(source: HubSource, names: Sequence[str], field: str) -> tuple[Path | None, str]:
    """The local folder of a codec, None without one, and how to get the files that it lacks."""
    if files.exists(source):
        return Path(source), f"download it into {source}, or give another folder for {field}"
    if not is_hub_id(source):
        return None, f"nothing at {source}; give another folder for {field}"
    fix = f"opening the model downloads it from {source} on the hub; or give a folder for {field}"
    return locate_cached(source, names), fix


def _plain(name: str, path: Path | None, fix: str) -> list[ModelFile]:
    if path is None or not files.is_file(path):
        return [ModelFile(name, None, f"missing: {fix}")]
    return [ModelFile(name, path.stat().st_size)]


def _tensors(name: str, path: Path | None, fix: str) -> list[ModelFile]:
    """One entry if all shards are there, or one for each missing file."""
    if path is None:
        return [ModelFile(name, None, f"missing: {fix}")]
    try:
        missing = [file.name for file in weights.files_of(path) if not files.is_file(file)]
        if missing:
            names = [name if file == path.name else f"{name}: {file}" for file in missing]
            return [ModelFile(missing_name, None, f"missing: {fix}") for missing_name in names]
        tensors = weights.outline(path)
    except WeightsError as error:
        return [ModelFile(name, None, str(error))]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    return [ModelFile(name, size, f"{len(tensors)} tensors of {', '.join(dtypes)}")]
