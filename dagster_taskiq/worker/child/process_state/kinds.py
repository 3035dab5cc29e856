"""All kinds of state there are, in the order in which they are restored."""

import faulthandler
import gc
import locale
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from functools import partial
from typing import Any

from dagster_taskiq.worker.child.process_state import limits, signals, warning_filters
from dagster_taskiq.worker.child.process_state.environment import Environment
from dagster_taskiq.worker.child.process_state.event_loops import EventLoopPolicy
from dagster_taskiq.worker.child.process_state.kind import Kind, Setting
from dagster_taskiq.worker.child.process_state.loggers import Loggers
from dagster_taskiq.worker.child.process_state.randomness import RandomNumbers
from dagster_taskiq.worker.child.process_state.signals import SignalHandlers, Timers
from dagster_taskiq.worker.child.process_state.streams import Descriptors, Streams
from dagster_taskiq.worker.child.process_state.threads import Threads
from dagster_taskiq.worker.child.process_state.warning_filters import WarningFilters


def all_kinds() -> tuple[Kind, ...]:
    """Return all kinds of state of this process; each is to be read before the first task."""
    return (
        Threads(),
        Timers(),
        SignalHandlers(),
        Setting("the signal mask", signals.mask, signals.set_mask, of_thread=True),
        Setting("the fault handler", faulthandler.is_enabled, signals.set_fault_handler),
        Descriptors(),
        Streams(),
        Loggers(),
        Setting("logging.disable", _disabled_levels, logging.disable),
        WarningFilters(),
        Setting("warnings.showwarning", warning_filters.show, warning_filters.set_show),
        _attribute(warnings, "formatwarning"),
        Environment(),
        Setting("the time zone", lambda: time.tzname, _set_time_zone),
        Setting("the locale", partial(locale.setlocale, locale.LC_ALL), _set_locale),
        Setting("the working directory", _directory, os.chdir),
        Umask(),
        EventLoopPolicy(),
        RandomNumbers(),
        *(ListOfSys(name) for name in ("path", "meta_path", "path_hooks", "argv")),
        *(_attribute(sys, name) for name in ("excepthook", "unraisablehook", "displayhook")),
        _attribute(threading, "excepthook"),
        _attribute(tempfile, "tempdir"),
        Setting("sys.settrace", sys.gettrace, sys.settrace, of_thread=True),
        Setting("sys.setprofile", sys.getprofile, sys.setprofile, of_thread=True),
        Setting("threading.settrace", threading.gettrace, threading.settrace),
        Setting("threading.setprofile", threading.getprofile, threading.setprofile),
        Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("the switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("the thread stack size", threading.stack_size, threading.stack_size),
        Setting("the socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Setting("garbage collection", _collection, _set_collection),
        Setting(
            "the start method of multiprocessing",
            partial(multiprocessing.get_start_method, allow_none=True),
            partial(multiprocessing.set_start_method, force=True),
        ),
        limits.ResourceLimits(),
        Setting("the cores it may use", limits.cores, limits.set_cores, of_thread=True),
        Setting("its niceness", limits.niceness, limits.set_niceness),
        Setting("its user", limits.identity, limits.set_identity),
    )


class ListOfSys:
    """A list of the ``sys`` module. Others may hold it: it stays the same list."""

    of_thread = False

    def __init__(self, attribute: str) -> None:
        self.name = f"sys.{attribute}"
        self._attribute = attribute
        self._list: list[Any] = getattr(sys, attribute)

    def read(self) -> list[Any]:
        """Return a copy."""
        return list(getattr(sys, self._attribute))

    def restore(self, wanted: list[Any]) -> None:
        """Put back the list, and what was in it."""
        setattr(sys, self._attribute, self._list)
        if self._list != wanted:
            self._list[:] = wanted


class Umask:
    """The permissions that new files do not get (umask(2))."""

    name = "the umask"
    of_thread = False

    def __init__(self) -> None:
        self._last = 0o077

    def read(self) -> int:
        """Return it. The only way to read it sets it, here to the last known one for a moment."""
        self._last = os.umask(self._last)
        os.umask(self._last)
        return self._last

    def restore(self, wanted: int) -> None:
        """Set it."""
        os.umask(wanted)


def _attribute(module: Any, name: str) -> Setting[Any]:
    return Setting(
        f"{module.__name__}.{name}", partial(getattr, module, name), partial(setattr, module, name)
    )


def _disabled_levels() -> int:
    return logging.root.manager.disable


def _set_time_zone(_wanted: tuple[str, str]) -> None:
    time.tzset()  # from the environment, which is as it was


def _set_locale(wanted: str) -> None:
    locale.setlocale(locale.LC_ALL, wanted)


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - it is read for each task, and a Path takes longer
    except FileNotFoundError:  # it has been deleted
        return ""


def _collection() -> tuple[bool, tuple[int, int, int], int]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _set_collection(wanted: tuple[bool, tuple[int, int, int], int]) -> None:
    is_enabled, threshold, debug = wanted
    gc.set_threshold(*threshold)
    gc.set_debug(debug)
    if is_enabled:
        gc.enable()
    else:
        gc.disable()
