"""Stopping politely: a wish to stop waits until what is running has come to a good end.

Knows nothing of training.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM that come inside are obeyed at the end; the yielded call says if one came.

    A second one is obeyed at once. What the caller ignores stays ignored, and outside of the main
    thread, where Python hands out no signals, nothing is changed.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS if _ours(number)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])


def _ours(number: int) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(number) not in (None, signal.SIG_IGN)
