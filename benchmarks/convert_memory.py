"""Memory that `convert` takes, as a fraction of the bytes that it converts.

    python benchmarks/convert_memory.py [--runs 2:bfloat16 6:bfloat16] [--json FILE]

The script writes a folder in the published layout with random weights: all widths, the vocabulary
and the codecs as published, but fewer layers of the backbone. A separate process converts it. The
result is the peak of its private memory minus the value before the conversion. Pages of mapped
files do not count, because the system reclaims them when it needs memory.
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
from omni_diffusion.models.upstream import BACKBONE_DTYPES, CodecSources
from omni_diffusion.vocab import Vocabulary

RESULTS = Path("benchmarks/results/convert-memory.json")
POLL = 0.005  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        nargs="+",
        default=["2:bfloat16", "6:bfloat16", "2:float32"],
        help="layers of the backbone (published: 28) and the dtype that it is written in",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="folder for the model folders (default: the system's temporary folder)",
    )
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for spec in args.runs:
        layers, _, dtype = spec.partition(":")
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            rows.append(run(Path(scratch), int(layers), dtype))
        print(json.dumps(rows[-1], indent=2), flush=True)
    files.write_text(args.json, json.dumps(rows, indent=2) + "\n")


def run(root: Path, layers: int, dtype: str) -> dict[str, object]:
    """Make a folder, convert it, and compare the memory with the written bytes."""
    backbone = write_published(root, layers)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure, args=(root, BACKBONE_DTYPES[dtype], theirs))
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


def measure(root: Path, dtype: torch.dtype, results: Connection) -> None:
    """Convert, and send the growth of private memory and the peak of resident memory, in bytes."""
    done = threading.Event()
    start = highest = memory("RssAnon")

    def watch() -> None:
        nonlocal highest
        while not done.wait(POLL):
            highest = max(highest, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    folders = (root / name for name in ("image", "tokenizer", "decoder", "hearing"))
    convert(root / "omni", root / "out", codec_sources=CodecSources(*folders), dtype=dtype)
    done.set()
    watcher.join()
    results.send((highest - start, memory("VmHWM")))


def memory(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return int(match[1]) * 1024


def write_published(root: Path, layers: int) -> int:
    """Write the published folders with random weights; returns the bytes of the backbone."""
    codecs, voice = SuiteConfig.official(), GlmVoiceConfig.official()
    vocoder = voice.vocoder
    assert isinstance(vocoder, HiFTConfig)
    for name in ("omni", "image", "tokenizer", "decoder", "hearing"):
        (root / name).mkdir()
    weights.write_tensors(
        random_tensors(Magvit2, codecs.image), root / "image/pytorch_model.safetensors"
    )
    weights.write_tensors(
        random_tensors(SpeechTokenizer, voice.tokenizer), root / "tokenizer/model.safetensors"
    )
    (root / "tokenizer/config.json").write_text('{"model_type": "whisper", "pooling_type": "avg"}')
    torch.save(random_tensors(Flow, voice.flow), root / "decoder/flow.pt")
    torch.save(random_tensors(HiFT, vocoder), root / "decoder/hift.pt")
    width = codecs.hearing.feature_width
    fbank.write_cmvn(torch.stack([torch.zeros(width), torch.ones(width)]), root / "hearing/am.mvn")
    sizes = replace(DreamConfig.dream_7b(), num_layers=layers)
    tensors = random_tensors(Dream, sizes, torch.bfloat16)
    size = weights.stored_bytes(tensors)
    encoder = random_tensors(SenseVoice, codecs.hearing, torch.bfloat16)
    tensors |= {OMNI_PREFIX + name: tensor for name, tensor in encoder.items()}
    weights.write_tensors(tensors, root / "omni/model.safetensors", max_shard_bytes=2 * 10**9)
    write_configs(root / "omni", sizes)
    return size


def random_tensors(
    kind: type[nn.Module], config: object, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    with torch.device("meta"):
        module = kind(config)
    names = module.state_dict().items()
    return {name: torch.empty(t.shape, dtype=dtype).normal_(std=0.02) for name, t in names}


def write_configs(folder: Path, sizes: DreamConfig) -> None:
    """Write config.json, and a tokenizer with the published ids, most of them placeholders."""
    vocabulary = Vocabulary.official()
    letters = {letter: id for id, letter in enumerate(sorted(ByteLevel.alphabet()))}
    vocab = letters | {f"<{id}>": id for id in range(len(letters), vocabulary.text_size)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ids = range(vocabulary.specials.start, vocabulary.size)
    added = {vocabulary.token(id): id for id in ids}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    config = {
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
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
