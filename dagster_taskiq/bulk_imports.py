"""Importing hundreds of modules in less time, as each process of a run or a worker does first."""

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, ForwardRef


class _TypeOfLate(type):
    """The type of a class that stands for one of a module which may be imported later, or never."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Return whether it is an instance of the class itself, as far as that is there."""
        module = sys.modules.get("fastapi.params")
        return module is not None and isinstance(instance, module.Depends)


class _Depends(metaclass=_TypeOfLate):
    """Stands for ``fastapi.params.Depends``: what has such a value has imported it."""


#: What taskiq imports whether or not it is used, if it is installed: a client for a middleware that
#: talks HTTP to a server of its own, a third of the time that importing taskiq takes; and FastAPI,
#: of which dependencies may be declared for tasks too, which takes longer than taskiq. For each:
#: the module that imports it, and what that gets of it, for annotations or to compare with.
_DEFERRED: dict[str, tuple[str, dict[str, Any]]] = {
    "aiohttp": (
        "taskiq.middlewares.taskiq_admin_middleware",
        {"ClientSession": ForwardRef("aiohttp.ClientSession")},
    ),
    "fastapi.params": ("taskiq_dependencies.graph", {"Depends": _Depends}),
}


@contextmanager
def bulk_imports() -> Iterator[None]:
    """Import what is imported inside the block without what only costs time then.

    The garbage collector is off meanwhile, in all threads: nothing that is imported is garbage, and
    to search it takes as long as the imports do. Afterwards it counts as old, so that it is not
    searched before the next collection of everything.

    What taskiq imports of ``aiohttp`` and FastAPI is imported when it is used.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with ExitStack() as stack:
            for name in _DEFERRED:
                stack.enter_context(_deferred(name))
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
    """Let importing a module inside the block give one that is imported when it is first used."""
    user, stand_ins = _DEFERRED[name]
    if name in sys.modules or user in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _DeferredModule(name, user, stand_ins)
    try:
        yield
    finally:
        stand_in.withdraw()


class _DeferredModule(ModuleType):
    """Stands for a module, and imports it when it is asked for an attribute of it."""

    def __init__(self, name: str, user: str, stand_ins: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._user = user
        self._stand_ins = stand_ins

    def withdraw(self) -> None:
        """Have what imports the module from now on get the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self and _name_of_caller() == self._user:
            if name in self._stand_ins:
                return self._stand_ins[name]
            if name == "__path__":  # `from NAME import ...` asks whether it has submodules
                raise AttributeError(name)
        self.withdraw()
        return getattr(import_module(self.__name__), name)


def _name_of_caller() -> str:
    """Return the name of the module that has asked for an attribute."""
    return str(sys._getframe(2).f_globals.get("__name__"))
