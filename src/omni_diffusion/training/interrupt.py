"""Delays SIGINT and SIGTERM until the running piece of work is finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Delay SIGINT and SIGTERM to the end of the block; yields a call that says if one arrived.

    A second signal takes effect at once. Ignored signals stay ignored. Outside the main thread
    Python delivers no signals, and nothing is changed.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS if _deferrable(number)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, record)
    try:
        yield lambda: bool(received)
    finally:
        restore()
    if received:
        signal.raise_signal(received[0])


def _deferrable(number: int) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(number) not in (None, signal.SIG_IGN)
