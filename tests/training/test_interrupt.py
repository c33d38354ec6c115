import signal
import threading
from collections.abc import Iterator

import pytest

from omni_diffusion.training.interrupt import deferred_signals


@pytest.fixture
def handled() -> Iterator[list[int]]:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end(handled: list[int]) -> None:
    with deferred_signals() as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        assert stopping()
        assert handled == []
    assert handled == [signal.SIGTERM]


def test_a_second_signal_is_obeyed_at_once(handled: list[int]) -> None:
    with deferred_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert handled == [signal.SIGTERM]
    assert len(handled) == 2


def test_ctrl_c_twice_breaks_off() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_signals():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second came to nothing")


def test_an_error_inside_comes_first(handled: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), deferred_signals():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError
    assert handled == []
    signal.raise_signal(signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with deferred_signals() as stopping:
            signal.raise_signal(signal.SIGTERM)
            assert not stopping()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def inside() -> None:
        with deferred_signals() as stopping:
            seen.append((signal.getsignal(signal.SIGINT), stopping()))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
