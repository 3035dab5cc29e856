"""Modules that are imported while a task runs: what they set stays, as they do."""

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportObserver(MetaPathFinder):
    """A finder that finds what the others find, and sees to what the module does as it is run.

    It stands in ``sys.meta_path`` before all others. The loader that is found is used as it is;
    only its ``exec_module`` is another one, for one call.
    """

    def __init__(self, loading: Callable[[], AbstractContextManager[None]]) -> None:
        """Take what is to be entered while a module is run."""
        self._loading = loading
        self._of_thread = threading.local()

    def install(self) -> None:
        """Observe imports from now on."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find (Python's own hook)."""
        # No module of Python's library changes the process as it is imported. What is imported by a
        # module that is observed is observed with it.
        if fullname.partition(".")[0] in sys.stdlib_module_names or self._is_busy:
            return None
        self._is_busy = True
        try:
            spec = self._find_by_others(fullname, path, target)
        finally:
            self._is_busy = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._observe(spec.loader)
        return spec

    @property
    def _is_busy(self) -> bool:
        return getattr(self._of_thread, "is_busy", False)

    @_is_busy.setter
    def _is_busy(self, is_busy: bool) -> None:
        self._of_thread.is_busy = is_busy

    def _find_by_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None

    def _observe(self, loader: Any) -> None:
        if "exec_module" in getattr(loader, "__dict__", {}) or isinstance(loader, type):
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with suppress(AttributeError):  # a loader of several modules
                del loader.exec_module
            self._is_busy = True
            try:
                with self._loading():
                    execute(module)
            finally:
                self._is_busy = False

        with suppress(AttributeError):  # a loader that has no place for it
            loader.exec_module = exec_module
