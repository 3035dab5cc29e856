"""A process killed by a timer of the kernel, because it may not be able to end itself in time.

A process that is frozen does nothing at its deadline; woken, it would first do what comes next. A
POSIX timer whose signal is SIGKILL (timer_create(2)) needs nothing of the process: it has ended
before it is woken.
"""

import contextlib
import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable

#: The libraries with the functions: the C library, and in older releases of glibc another one.
_LIBRARIES = (None, "librt.so.1")
#: ``timer_settime``: the time is that of the clock, not one from now on.
_ABSOLUTE = 1


class _Signal(ctypes.Structure):
    """``struct sigevent``, with the notification that is a signal (0), on 64-bit Linux."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("unused", ctypes.c_char * 48),
    )


class _Times(ctypes.Structure):
    """``struct itimerspec``: the interval of a timer that repeats, and when it first ends."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


def killer() -> Callable[[float], None]:
    """Return what sets the moment, of ``time.monotonic()``, at which the kernel kills this process.

    The process alone: what it has started is for others to end. A moment that is set replaces the
    one before, and ``math.inf`` cancels it. If the system has no such timers (it is not a
    64-bit Linux), nothing happens.
    """
    if sys.platform == "linux" and sys.maxsize > 2**32:
        for name in _LIBRARIES:
            with contextlib.suppress(OSError, AttributeError):
                library = ctypes.CDLL(name, use_errno=True)
                return _killer_by(library.timer_create, library.timer_settime)
    return _do_nothing


def _killer_by(create: Callable[..., int], set_time: Callable[..., int]) -> Callable[[float], None]:
    timer = ctypes.c_void_p()
    event = _Signal(number=signal.SIGKILL)
    if create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

    def kill_at(deadline: float) -> None:
        times = _Times()  # a time of zero cancels it
        if deadline < math.inf:
            seconds, rest = divmod(max(deadline, 0.0), 1)
            times = _Times(seconds=int(seconds), nanoseconds=max(1, int(rest * 1e9)))
        set_time(timer, _ABSOLUTE, ctypes.byref(times), None)

    return kill_at


def _do_nothing(deadline: float) -> None:
    """Set no timer."""
