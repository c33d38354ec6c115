"""A prompt's keys and values kept for some denoising steps; knows nothing of steps or blanks.

With both-way attention no such cache is exact: the states of the prompt change whenever the
canvas behind it does. Every cache here says so in `exact`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omni_diffusion.errors import ModelError


class PrefixCache:
    """APPROXIMATE: the first `length` places stay frozen between refreshing calls.

    Hand the same cache to each call of the model, with the same rows and their whole canvases.
    The first call and every `refresh`-th after it compute all places and store the prefix; calls
    between compute only the places after it. `refresh=1` is plain decoding.
    """

    exact: ClassVar[bool] = False

    def __init__(self, length: int, refresh: int) -> None:
        if length < 1 or refresh < 1:
            raise ModelError(
                f"prefix of {length} places, refreshed every {refresh} calls; both must be above 0"
            )
        self.length = length
        self.refresh = refresh
        self._calls = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._hidden = torch.empty(0)

    def begin(self, rows: int, places: int) -> int:
        """Open one call for a batch [rows, places]; returns how many first places are ready.

        Raises ModelError when the batch cannot be the one whose prefix is kept.
        """
        if places < self.length:
            raise ModelError(
                f"canvas of {places} places is shorter than the cached prefix of {self.length}"
            )
        if self._calls and len(self._hidden) != rows:
            raise ModelError(
                f"cache of {len(self._hidden)} rows used for {rows}; make one cache per batch"
            )
        fresh = self._calls % self.refresh == 0
        self._calls += 1
        if not fresh:
            return self.length
        self._keys, self._values = [], []
        return 0

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, L, K] of all places, whether they begin with the prefix or not.

        In a refreshing call, layers come in order and their prefixes are stored on the way.
        """
        if layer == len(self._keys):
            self._keys.append(keys[:, :, : self.length].detach().clone())
            self._values.append(values[:, :, : self.length].detach().clone())
            return keys, values
        return (
            torch.cat([self._keys[layer], keys], dim=2),
            torch.cat([self._values[layer], values], dim=2),
        )

    def finish(self, hidden: Tensor, ready: int) -> Tensor:
        """Last states [B, L, D] of all places, from those computed: [B, L - ready, D]."""
        if ready:
            return torch.cat([self._hidden, hidden], dim=1)
        self._hidden = hidden[:, : self.length].detach().clone()
        return hidden
