"""The state of this process: what it was, what is kept of a change, and how it is restored."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from dagster_taskiq.worker.child.process_state.imports import ImportObserver
from dagster_taskiq.worker.child.process_state.kind import CannotRestoreError, Kind, with_changes
from dagster_taskiq.worker.child.process_state.kinds import all_kinds
from dagster_taskiq.worker.child.process_state.task_context import ContextVariables

P = ParamSpec("P")
T = TypeVar("T")


class ProcessState:
    """The state of this process as it is now, for all tasks that follow.

    Made on the main thread, on which tasks run.
    """

    def __init__(self, kinds: Sequence[Kind] | None = None) -> None:
        """Look at everything once.

        Args:
            kinds: what is restored; by default all there is.
        """
        self._kinds = tuple(all_kinds() if kinds is None else kinds)
        self._context = ContextVariables()
        self._loaded: set[str] = set()
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        ImportObserver(self._keeping).install()
        self._wanted = [kind.read() for kind in self._kinds]

    def run(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the context variables of a new process; return what it returns."""
        return self._context.copy().run(task, *args, **kwargs)

    @contextmanager
    def loading(self, what: str) -> Iterator[None]:
        """Keep, for the tasks that follow, what changes inside: code is loaded there, and stays.

        Args:
            what: what is loaded. The second time, it is there already, and changes nothing.
        """
        if what in self._loaded:
            yield
            return
        self._loaded.add(what)
        with self._keeping():
            yield

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """As :meth:`loading`, each time; on any thread, and also inside of itself."""
        if getattr(self._of_thread, "is_keeping", False):
            yield
            return
        self._of_thread.is_keeping = True
        before = self._look()
        variables = self._context.look()
        try:
            yield
        finally:
            self._of_thread.is_keeping = False
            self._keep(before, self._look())
            if _is_main_thread():
                self._context.keep(variables)

    def restore(self) -> list[str]:
        """Make the state what it was, after a task.

        Returns:
            What the task left behind that cannot be restored, in words.
        """
        left: list[str] = []
        for kind, wanted in zip(self._kinds, self._wanted, strict=True):
            try:
                kind.restore(wanted)
            except CannotRestoreError as error:
                left.append(str(error))
            except Exception as error:
                left.append(f"{kind.name} ({error})")
        return left

    def _look(self) -> dict[int, Any]:
        every = _is_main_thread()
        kinds = enumerate(self._kinds)
        return {number: kind.read() for number, kind in kinds if every or not kind.of_thread}

    def _keep(self, before: dict[int, Any], after: dict[int, Any]) -> None:
        with self._lock:
            for number, value in after.items():
                if before[number] != value:
                    wanted = self._wanted[number]
                    self._wanted[number] = with_changes(wanted, before[number], value)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
