"""Makes qwen_merges.json: the part of the published text vocabulary that the stored texts need.

    python tests/codecs/make_qwen_merges.py qwen.tiktoken [--full FOLDER]

`qwen.tiktoken` holds the published ranks, a line of base64 bytes and id for each of the 151,643
tokens. --full also writes the whole vocabulary as vocab.json and merges.txt, checks that it gives
every stored id, and leaves qwen_merges.json as it is.

A list of ranks names no merges. The merge that makes a token is found by joining its bytes with
the lower ranks alone: two parts are left, and they are the pair.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import pre_tokenizers

from omni_diffusion.codecs.text import BYTES, TextCodec

HERE = Path(__file__).resolve().parent
MERGES = HERE / "qwen_merges.json"
TOKENS = HERE.parent / "parity" / "backbone" / "tokens.json"
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
ABOUT = (
    "The 256 bytes and those merges of the published vocabulary that the strings of tokens.json"
    " need; [id, left, right] by rank. Other texts come out wrong."
)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Ids by the bytes of their tokens."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        sys.exit(f"{path} is not the published file (sha256 {SHA256[:8]}..); fetch it again")
    rows = (line.split() for line in data.splitlines() if line)
    return {base64.b64decode(token): int(id) for token, id in rows}


def pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that the merge of `token` joins."""
    parts = [token[at : at + 1] for at in range(len(token))]
    below = ranks[token]
    while True:
        joined = [ranks.get(parts[at] + parts[at + 1], below) for at in range(len(parts) - 1)]
        lowest = min(joined)
        if lowest >= below:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    left, right = parts
    return left, right


def letters(token: bytes) -> str:
    """The bytes in the printable alphabet of byte-level tokenizers, one letter a byte."""
    return "".join(ALPHABET[byte] for byte in token)


def alphabet() -> list[str]:
    """The letter of each byte: printable ones stand for themselves, others count up from 256."""
    shown = sorted(pre_tokenizers.ByteLevel.alphabet())
    itself = [chr(byte) if chr(byte) in shown else None for byte in range(BYTES)]
    spare = iter(letter for letter in shown if ord(letter) >= BYTES)
    return [letter if letter is not None else next(spare) for letter in itself]


ALPHABET = alphabet()


def needed(tokens: Iterable[bytes], ranks: Mapping[bytes, int]) -> set[bytes]:
    """The tokens and all that they are joined from, single bytes left out."""
    found: set[bytes] = set()
    waiting = list(tokens)
    while waiting:
        token = waiting.pop()
        if len(token) > 1 and token not in found:
            found.add(token)
            waiting += pair(token, ranks)
    return found


def stored_rows() -> Iterator[tuple[str, list[int]]]:
    """The texts of tokens.json with their ids."""
    stored = json.loads(TOKENS.read_text(encoding="utf-8"))
    for row in (*stored["strings"], *stored["prompts"].values()):
        yield row["text"], row["ids"]


def write_part(ranks: Mapping[bytes, int]) -> None:
    """qwen_merges.json, one merge a line."""
    tokens = {id: token for token, id in ranks.items()}
    wanted = {tokens[id] for _, ids in stored_rows() for id in ids if id in tokens}
    rows = sorted((ranks[token], pair(token, ranks)) for token in needed(wanted, ranks))
    merges = [f"{id} {letters(left)} {letters(right)}" for id, (left, right) in rows]
    data = {
        "about": ABOUT,
        "source": f"qwen.tiktoken, sha256 {SHA256[:8]}...{SHA256[-5:]}",
        "bytes": "".join(letters(tokens[id]) for id in range(BYTES)),
        "merges": merges,
    }
    text = json.dumps(data, ensure_ascii=False, indent=0)
    MERGES.write_text(text + "\n", encoding="utf-8")
    print(f"{MERGES}: {len(merges)} merges")


def write_whole(ranks: Mapping[bytes, int], folder: Path) -> None:
    """The published pair of files, checked against the stored texts of plain tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {letters(token): id for token, id in ranks.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    joined = (pair(token, ranks) for token in sorted(ranks, key=ranks.__getitem__)[BYTES:])
    merges = "\n".join(f"{letters(left)} {letters(right)}" for left, right in joined)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    codec = TextCodec.from_bpe(folder / "vocab.json", folder / "merges.txt")
    plain = [(text, ids) for text, ids in stored_rows() if max(ids) < len(ranks)]
    wrong = [text for text, ids in plain if codec.encode(text).tolist() != ids]
    print(f"{folder}: {codec.vocabulary_size} tokens, {len(plain)} texts, wrong: {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ranks", type=Path)
    parser.add_argument("--full", type=Path)
    given = parser.parse_args()
    ranks = read_ranks(given.ranks)
    if given.full is None:
        write_part(ranks)
    else:
        write_whole(ranks, given.full)


if __name__ == "__main__":
    main()
