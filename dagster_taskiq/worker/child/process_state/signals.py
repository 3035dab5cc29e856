"""Signals: handlers, the mask, timers."""

import faulthandler
import signal

# What signal.getsignal calls: that looks up names of numbers as well, and takes ten times as long.
from _signal import getsignal  # type: ignore[import-not-found] # Python's own, without annotations
from typing import Any

_NUMBERS = tuple(int(number) for number in sorted(signal.valid_signals()))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class SignalHandlers:
    """The handler of each signal, by its number; ``None`` for one that is not Python's."""

    name = "signal handlers"
    of_thread = False

    def read(self) -> dict[int, Any]:
        """Return the handlers."""
        return {number: getsignal(number) for number in _NUMBERS}

    def restore(self, wanted: dict[int, Any]) -> None:
        """Set those that have changed. The one of another library cannot be set again."""
        found = self.read()
        if found != wanted:
            for number, handler in wanted.items():
                if found[number] != handler:
                    signal.signal(number, handler)
        signal.set_wakeup_fd(-1)


class Timers:
    """Timers that would send a signal, or print stacks, in the middle of another task."""

    name = "timers"
    of_thread = False

    def read(self) -> None:
        """Return nothing: a new process has none."""

    def restore(self, wanted: None) -> None:
        """Stop them all."""
        del wanted
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        faulthandler.cancel_dump_traceback_later()


def mask() -> set[signal.Signals | int]:
    """Return the signals that are blocked in this thread."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def set_mask(wanted: set[signal.Signals | int]) -> None:
    """Block these signals and no others."""
    signal.pthread_sigmask(signal.SIG_SETMASK, wanted)


def set_fault_handler(is_enabled: bool) -> None:
    """Have the stacks printed when the process crashes, or not."""
    if is_enabled:
        faulthandler.enable()
    else:
        faulthandler.disable()
