"""The published text vocabulary, cut down to what the stored prompts and strings need.

An applied merge is always the lowest-ranked one that fits, so leaving out merges that a text never
applies changes none of its ids. The whole vocabulary is not part of this repository;
`codecs/make_qwen_merges.py` makes the part of it that is. Ids between those of the part are taken
by stand-ins that no merge makes, so that the codec has as many tokens as the published one.
"""

from __future__ import annotations

import json
from pathlib import Path

from omni_diffusion.codecs.text import TextCodec

MERGES = Path(__file__).parent / "codecs" / "qwen_merges.json"
TOKENS = 151_643


def published_text(folder: Path) -> TextCodec:
    """The codec, through the published pair of files written to `folder`."""
    stored = json.loads(MERGES.read_text(encoding="utf-8"))
    vocab = {letter: id for id, letter in enumerate(stored["bytes"])}
    merges = ["#version: 0.2"]
    for row in stored["merges"]:
        id, left, right = row.split(" ")
        vocab[left + right] = int(id)
        merges.append(f"{left} {right}")
    vocab |= {f"<{id}>": id for id in set(range(TOKENS)).difference(vocab.values())}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return TextCodec.from_bpe(folder / "vocab.json", folder / "merges.txt")
