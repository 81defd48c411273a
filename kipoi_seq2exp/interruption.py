"""Signals that ask a command to end: Ctrl-C, the end of a terminal (SIGHUP) and a polite kill (SIGTERM) do the same.

Contract: within `interruptible` each of them raises `KeyboardInterrupt` in the main thread, so that what is whole is
kept, workers end and temporary files go. A signal that was ignored before (`nohup`, a job in the background) stays so.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruptions:
    """The last signal that came, if any."""

    number: int | None = None

    @property
    def status(self) -> int:
        """Exit status of a command that a signal ended, as a shell reports it: 130 after Ctrl-C."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def cause(self) -> str:
        """Name of the signal for messages."""
        return "Ctrl-C" if self.number in (None, signal.SIGINT) else signal.Signals(self.number or 0).name


@contextmanager
def interruptible() -> Iterator[Interruptions]:
    """Have every signal of `SIGNALS` raise `KeyboardInterrupt` in the block; the value yielded tells which one came."""
    seen, owner = Interruptions(), os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process, which must end as it would without this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        seen.number = number
        raise KeyboardInterrupt

    with _handled_by(stop):
        yield seen


@contextmanager
def held() -> Iterator[None]:
    """Put off the signals of `SIGNALS` to the end of the block; the first of them then does what it would have done."""
    waiting: list[int] = []
    with _handled_by(lambda number, _: waiting.append(number)):
        yield
    if waiting:
        signal.raise_signal(waiting[0])


@contextmanager
def _handled_by(handler: signal._HANDLER) -> Iterator[None]:
    """Have a handler for the signals in the block; without effect outside the main thread, which alone gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, found in before.items() if found not in (signal.SIG_IGN, None)]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
