"""Text as byte-pair tokens and back, at any vocabulary size.

Has no special tokens: everything between angle brackets is ordinary text, so a user's words can
never begin or end a turn. Tasks insert special tokens between texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from omni_diffusion.errors import ModelError, VocabularyError
from omni_diffusion.io import files

# Qwen2's split before byte pairs are merged: contractions of any case, words with one leading
# sign, single digits, signs with their line ends, line ends, other white space.
PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = 256


class TextCodec:
    """A byte-level byte-pair tokenizer: every text has ids, every sequence of ids has a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a tokenizer.json; raises ModelError if missing, broken or with special tokens."""
        path = Path(path)
        if not files.is_file(path):
            raise ModelError(
                f"no tokenizer at {path}", value=str(path), fix="give a tokenizer.json"
            )
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(
                f"{path} is not a tokenizer ({_line(error)})",
                value=str(path),
                fix="download it again",
            ) from error
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        if added:
            raise ModelError(
                f"{path} adds tokens such as {added[0]!r}, which users could write",
                value=str(path),
                fix="build the codec from vocab.json and merges.txt",
            )
        return cls(tokenizer)

    @classmethod
    def from_bpe(cls, vocab: Path, merges: Path) -> Self:
        """From the published pair vocab.json and merges.txt; no special token is added."""
        for path in (Path(vocab), Path(merges)):
            if not files.is_file(path):
                raise ModelError(
                    f"no tokenizer file at {path}",
                    value=str(path),
                    fix="give vocab.json and merges.txt",
                )
        try:
            return cls(_assembled(models.BPE.from_file(str(vocab), str(merges))))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(
                f"{vocab} and {merges} are not a tokenizer ({_line(error)})",
                value=str(vocab),
                fix="download them again",
            ) from error

    @classmethod
    def train(cls, sentences: Iterable[str], size: int) -> Self:
        """Train up to `size` tokens, including the 256 bytes; few sentences may give fewer."""
        if size < BYTES:
            raise VocabularyError(
                f"{size} text tokens",
                field="size",
                value=size,
                fix=f"give {BYTES} or more, one for each byte",
            )
        tokenizer = _assembled(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sentences, trainer)
        return cls(tokenizer)

    def save(self, path: Path) -> None:
        """Write a tokenizer.json atomically."""
        files.write_text(path, self._tokenizer.to_str(pretty=True))

    @property
    def vocabulary_size(self) -> int:
        """The number of local ids."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def encode(self, text: str, /) -> Tensor:
        """Local ids, int64 [n]; an empty text has none. The text is normalized first (NFC)."""
        try:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise VocabularyError(
                f"{text[:40]!r} has half of a surrogate pair, which is not a character",
                value=text,
                fix="remove it",
            ) from error
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Tensor, /) -> str:
        """The text of local ids [n]; bytes that are not a character become U+FFFD."""
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary_size:
            raise VocabularyError(
                f"text ids range from {int(ids.min())} to {int(ids.max())}",
                field="ids",
                fix=f"give local ids 0..{self.vocabulary_size - 1}",
            )
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def _assembled(model: models.BPE) -> Tokenizer:
    """The model with Qwen2's normalizer, pre-split and byte alphabet."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
