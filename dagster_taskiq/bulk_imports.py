"""Importing hundreds of modules in less time, as each process of a run or a worker does first."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, ForwardRef

#: The module of taskiq that imports :data:`_DEFERRED`: a middleware that talks HTTP to a server of
#: its own, which is imported with taskiq whether or not it is used.
_USER = "taskiq.middlewares.taskiq_admin_middleware"
#: What it imports, a third of the time that importing taskiq takes, and of that the names that
#: stand in annotations alone.
_DEFERRED, _ANNOTATIONS = "aiohttp", ("ClientSession",)


@contextmanager
def bulk_imports() -> Iterator[None]:
    """Import what is imported inside the block without what only costs time then.

    The garbage collector is off meanwhile, in all threads: nothing that is imported is garbage, and
    to search it takes as long as the imports do. Afterwards it counts as old, so that it is not
    searched before the next collection of everything.

    ``aiohttp`` is imported when what taskiq imports of it is used.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with _deferred(_DEFERRED):
            yield
        # Makes all there is old. What somebody else has frozen would not be any more.
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
    finally:
        if collects:
            gc.enable()


@contextmanager
def _deferred(name: str) -> Iterator[None]:
    """Let ``import NAME`` inside the block give a module that is imported when it is first used."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _DeferredModule(name)
    try:
        yield
    finally:
        stand_in.withdraw()


class _DeferredModule(ModuleType):
    """Stands for a module, and imports it when it is asked for an attribute of it."""

    def withdraw(self) -> None:
        """Have what imports the module from now on get the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        stands_in = sys.modules.get(self.__name__) is self
        if stands_in and name in _ANNOTATIONS and _name_of_caller() == _USER:
            return ForwardRef(f"{self.__name__}.{name}")
        self.withdraw()
        return getattr(import_module(self.__name__), name)


def _name_of_caller() -> str:
    """Return the name of the module that has asked for an attribute."""
    return str(sys._getframe(2).f_globals.get("__name__"))
