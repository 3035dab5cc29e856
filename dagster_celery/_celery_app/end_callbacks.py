"""What is called when the end of a result is seen: ``result.then(callback)``."""

from collections.abc import Callable
from typing import Any

Callback = Callable[[Any], Any]


class EndCallbacks:
    """The functions that are called with a result, once each, when a call finds that it has ended.

    As in Celery, nothing looks for the end by itself: ``get()``, ``ready()`` and ``state`` do.
    """

    def __init__(self, has_ended: bool = False) -> None:
        self._has_ended = has_ended
        self._waiting: list[tuple[Callback, Callback | None]] = []

    def add(self, result: Any, callback: Callback, on_error: Callback | None) -> None:
        """Add a function; it is called at once if the end has been seen.

        Args:
            result: what it is called with.
            callback: the function.
            on_error: is called with the exception that ``callback`` raises; it is raised without.
        """
        self._waiting.append((callback, on_error))
        if self._has_ended:
            self.call(result)

    def call(self, result: Any) -> None:
        """Call those that wait: the end of the result has been seen."""
        self._has_ended = True
        while self._waiting:
            callback, on_error = self._waiting.pop(0)
            try:
                callback(result)
            except Exception as error:
                if on_error is None:
                    raise
                on_error(error)
