"""Which files of a model are here, in our layout or in a published one; looked at, never loaded.

Of weights only the headers are read. Nothing is fetched: what a part's place on the hub would give
is found where it was fetched before, and else told how to get. Knows nothing of sizes in memory.
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
from omni_diffusion.io import weights
from omni_diffusion.models import upstream
from omni_diffusion.models.omni import BACKBONE_FILE, CONFIG_FILE, GENERATION_FILE, MODEL_TYPE
from omni_diffusion.models.upstream import (
    DECODER_FILES,
    ENCODER_FILE,
    IMAGE_FILES,
    TOKENIZER_FILES,
    Parts,
    Place,
)

AGAIN = "fetch it again, or convert the model anew"
TOKENS = ("added_tokens.json", "tokenizer_config.json")  # either will do
PAIRS = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class Entry:
    """A file or a set of shards. bytes: on the disk, None where it is missing or broken.

    note: how many tensors, or what is wrong and how to get it.
    """

    name: str
    bytes: int | None
    note: str = ""


def is_ours(folder: Path) -> bool:
    """Whether config.json is ours, or where it cannot be read whether no published file is here."""
    try:
        return upstream.read_json(folder / CONFIG_FILE).get("model_type") == MODEL_TYPE
    except ModelError:
        return not any((folder / name).is_file() for name in (*PAIRS, *TOKENS))


def entries(folder: Path, parts: Parts | None = None) -> list[Entry]:
    """What opening the folder reads, one by one; `parts` are a published folder's."""
    return [*(_ours(folder) if is_ours(folder) else _published(folder, parts or Parts()))]


def _ours(folder: Path) -> Iterator[Entry]:
    for name in (CONFIG_FILE, GENERATION_FILE):
        yield from _plain(name, folder / name, AGAIN)
    yield from _tensors(BACKBONE_FILE, folder / BACKBONE_FILE, AGAIN)
    yield from _plain(TEXT_FILE, folder / TEXT_FILE, AGAIN)
    for name in (IMAGE_FILE, HEARING_FILE):
        yield from _tensors(name, folder / name, AGAIN)
    how = "SenseVoiceSmall has the published one; put it here, or convert the model anew"
    yield from _plain(CMVN_FILE, folder / CMVN_FILE, how)
    speech = folder / SPEECH_FOLDER
    yield from _plain(f"{SPEECH_FOLDER}/{SPEECH_CONFIG}", speech / SPEECH_CONFIG, AGAIN)
    names = [TOKENIZER_FILE, FLOW_FILE]
    try:
        vocoder = configs.load(GlmVoiceConfig, speech / SPEECH_CONFIG).vocoder
        names += [VOCODER_FILE] if isinstance(vocoder, HiFTConfig) else []
    except ConfigError:
        pass  # told of already, or by whoever reads it
    for name in names:
        yield from _tensors(f"{SPEECH_FOLDER}/{name}", speech / name, AGAIN)


def _published(folder: Path, parts: Parts) -> Iterator[Entry]:
    how = f"fetch it into {folder}"
    tokens = next((name for name in TOKENS if (folder / name).is_file()), TOKENS[0])
    for name in (CONFIG_FILE, *PAIRS, tokens):
        yield from _plain(name, folder / name, how)
    yield from _tensors("backbone", folder, how)

    place, how = _part(parts.image_codec, IMAGE_FILES, "--image-codec")
    yield from _tensors("picture codec", place, how)

    place, how = _part(parts.speech_tokenizer, TOKENIZER_FILES, "--speech-tokenizer")
    sizes, numbers = (place and place / name for name in TOKENIZER_FILES)
    yield from _plain("speech tokenizer: config.json", sizes, how)
    yield from _tensors("speech tokenizer", numbers, how)

    place, how = _part(parts.speech_decoder, DECODER_FILES, "--speech-decoder")
    for name in DECODER_FILES:
        yield from _tensors(f"speech decoder: {name}", place and place / name, how)

    trained = upstream.is_trained(folder)
    names = (CMVN_FILE,) if trained else (CMVN_FILE, ENCODER_FILE)
    place, how = _part(parts.hearing, names, "--cmvn")
    path = place / CMVN_FILE if place and place.is_dir() else place
    yield from _plain(f"hearing: {CMVN_FILE}", path, how)
    if not trained:  # else the backbone's files hold it
        encoder = path and path.with_name(ENCODER_FILE)
        yield from _tensors(f"hearing: {ENCODER_FILE}", encoder, how)


def _part(place: Place, names: Sequence[str], option: str) -> tuple[Path | None, str]:
    """Where a part lies, None if nowhere here, and how to get what it lacks."""
    if Path(place).exists():
        return Path(place), f"fetch it into {place}, or give {option} another folder"
    if not upstream.HUB_ID.fullmatch(str(place).partition("@")[0]):
        return None, f"nothing at {place}; give {option} another folder"
    found = upstream.fetched(place, names)
    return found, f"fetched from {place} on the hub when the model opens, or give {option} FOLDER"


def _plain(name: str, path: Path | None, how: str) -> list[Entry]:
    if path is None or not path.is_file():
        return [Entry(name, None, f"missing: {how}")]
    return [Entry(name, path.stat().st_size)]


def _tensors(name: str, path: Path | None, how: str) -> list[Entry]:
    """One entry for all that is there, or one for each file that is not."""
    if path is None:
        return [Entry(name, None, f"missing: {how}")]
    try:
        lost = [file.name for file in weights.files_of(path) if not file.is_file()]
        if lost:
            named = [name if file == path.name else f"{name}: {file}" for file in lost]
            return [Entry(each, None, f"missing: {how}") for each in named]
        found = weights.outline(path)
    except WeightsError as error:
        return [Entry(name, None, str(error))]
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in found.values()})
    size = sum(tensor.numel() * tensor.itemsize for tensor in found.values())
    return [Entry(name, size, f"{len(found)} tensors of {', '.join(kinds)}")]
