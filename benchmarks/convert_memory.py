"""Memory that `convert` takes, as a share of the bytes that it converts.

    python benchmarks/convert_memory.py [--runs 2:bfloat16 6:bfloat16] [--json FILE]

A folder in the official layout is made of random weights: all widths, the vocabulary and the codecs
as published, fewer layers of the backbone. It is converted in a process of its own. Told are the
bytes of its private memory at their highest beyond those before the conversion; pages of mapped
files are left out, for the system takes them back whenever it needs room.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.codecs import fbank
from omni_diffusion.codecs.glm_voice.codec import GlmVoiceConfig
from omni_diffusion.codecs.glm_voice.flow import Flow
from omni_diffusion.codecs.glm_voice.tokenizer import SpeechTokenizer
from omni_diffusion.codecs.glm_voice.vocoder import HiFT, HiFTConfig
from omni_diffusion.codecs.magvit2 import Magvit2
from omni_diffusion.codecs.sensevoice import OMNI_PREFIX, SenseVoice
from omni_diffusion.codecs.suite import SuiteConfig
from omni_diffusion.io import files, weights
from omni_diffusion.models.omni import convert
from omni_diffusion.models.upstream import DTYPES, Parts
from omni_diffusion.vocab import Vocabulary

RESULTS = Path("benchmarks/results/convert-memory.json")
POLL = 0.005  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        nargs="+",
        default=["2:bfloat16", "6:bfloat16", "2:float32"],
        help="layers of the backbone (published: 28) and the dtype that it is stored in",
    )
    parser.add_argument("--scratch", type=Path, help="where the folders are made")
    parser.add_argument("--json", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = []
    for wanted in given.runs:
        layers, _, dtype = wanted.partition(":")
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            rows.append(run(Path(scratch), int(layers), dtype))
        print(json.dumps(rows[-1], indent=2), flush=True)
    files.write_text(given.json, json.dumps(rows, indent=2) + "\n")


def run(root: Path, layers: int, dtype: str) -> dict[str, object]:
    """Make, convert, and compare with what was written."""
    backbone = make(root, layers)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measured, args=(root, DTYPES[dtype], theirs))
    child.start()
    theirs.close()  # so that a child that fails is noticed
    extra, resident = ours.recv()
    child.join()
    shards = [*(root / "out").glob("model*.safetensors")]
    written = sum(path.stat().st_size for path in shards)
    codecs = sum(p.stat().st_size for p in (root / "out").rglob("*.safetensors")) - written
    return {
        "layers": layers,
        "dtype": dtype,
        "backbone_bytes": backbone,
        "written_bytes": written + codecs,
        "codec_bytes": codecs,
        "backbone_files": len(shards),
        "peak_private_bytes": extra,
        "peak_resident_bytes": resident,
        "private_over_written": round(extra / (written + codecs), 3),
        "private_beyond_codecs_over_backbone": round((extra - codecs) / backbone, 3),
    }


def measured(root: Path, dtype: torch.dtype, told: Connection) -> None:
    """Convert, and tell the highest private bytes beyond those at the start, and all resident."""
    done = threading.Event()
    start = highest = memory("RssAnon")

    def watch() -> None:
        nonlocal highest
        while not done.wait(POLL):
            highest = max(highest, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    places = (root / name for name in ("image", "tokenizer", "decoder", "hearing"))
    convert(root / "omni", root / "out", parts=Parts(*places), dtype=dtype)
    done.set()
    watcher.join()
    told.send((highest - start, memory("VmHWM")))


def memory(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def make(root: Path, layers: int) -> int:
    """The published folders, of random weights; the bytes of the backbone's."""
    codecs, voice = SuiteConfig.official(), GlmVoiceConfig.official()
    vocoder = voice.vocoder
    assert isinstance(vocoder, HiFTConfig)
    for name in ("omni", "image", "tokenizer", "decoder", "hearing"):
        (root / name).mkdir()
    weights.write(drawn(Magvit2, codecs.image), root / "image/pytorch_model.safetensors")
    weights.write(drawn(SpeechTokenizer, voice.tokenizer), root / "tokenizer/model.safetensors")
    (root / "tokenizer/config.json").write_text('{"model_type": "whisper", "pooling_type": "avg"}')
    torch.save(drawn(Flow, voice.flow), root / "decoder/flow.pt")
    torch.save(drawn(HiFT, vocoder), root / "decoder/hift.pt")
    width = codecs.hearing.feature_width
    fbank.write_cmvn(torch.stack([torch.zeros(width), torch.ones(width)]), root / "hearing/am.mvn")
    sizes = replace(DreamConfig.dream_7b(), num_layers=layers)
    tensors = drawn(Dream, sizes, torch.bfloat16)
    size = weights.stored_bytes(tensors)
    heard = drawn(SenseVoice, codecs.hearing, torch.bfloat16)
    tensors |= {OMNI_PREFIX + name: tensor for name, tensor in heard.items()}
    weights.write(tensors, root / "omni/model.safetensors", max_shard_bytes=2 * 10**9)
    describe(root / "omni", sizes)
    return size


def drawn(
    kind: type[nn.Module], config: object, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = kind(config)
    names = module.state_dict().items()
    return {name: torch.empty(t.shape, dtype=dtype).normal_(std=0.02) for name, t in names}


def describe(folder: Path, sizes: DreamConfig) -> None:
    """config.json, and a tokenizer whose ids are the published ones, most of them stand-ins."""
    vocabulary = Vocabulary.official()
    letters = {letter: id for id, letter in enumerate(sorted(ByteLevel.alphabet()))}
    words = letters | {f"<{id}>": id for id in range(len(letters), vocabulary.text_size)}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ids = range(vocabulary.specials.start, vocabulary.size)
    added = {vocabulary.token(id): id for id in ids}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    told = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "max_position_embeddings": sizes.max_positions,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_theta": sizes.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": sizes.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
