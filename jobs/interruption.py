"""Ctrl-C and SIGTERM as an ordinary end of the program."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Generator[None]:
    """Ends the run in good order on Ctrl-C and SIGTERM: Ray stops, nothing half-written shows.

    Both become a `SystemExit` with the shell's code (130, 143), raised where the program stands.

    Outside the main thread, where handlers can't be set, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    signals = (signal.SIGINT, signal.SIGTERM)
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        for one in signals:  # a second one must not disturb the clean-up
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    previous = [signal.signal(one, end) for one in signals]
    try:
        yield
    except SystemExit as error:
        if received:  # where it met Ray's own waiting, Ray has put 1 in the code's place
            raise SystemExit(128 + received[0]) from error
        raise
    finally:
        for one, handler in zip(signals, previous, strict=True):
            signal.signal(one, handler)
