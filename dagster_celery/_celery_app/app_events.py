"""``app.on_after_configure`` and the like: to these, functions can be connected."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class AppEvent:
    """Something that happens to an app once. What is connected later is called at once."""

    def __init__(self, app: Any) -> None:
        """Make the event.

        Args:
            app: the ``sender`` that the functions get.
        """
        self._app = app
        self._functions: list[Callable[..., Any]] = []
        self._has_happened = False

    def connect(self, function: F | None = None, **_: Any) -> Any:
        """Have a function called when it happens; a decorator, with or without parentheses."""
        if function is None:
            return self.connect
        if self._has_happened:
            function(sender=self._app)
        else:
            self._functions.append(function)
        return function

    def disconnect(self, function: Callable[..., Any], **_: Any) -> None:
        """Have a function not called any more."""
        self._functions = [each for each in self._functions if each is not function]

    def send(self) -> None:
        """Let it happen."""
        self._has_happened = True
        functions, self._functions = self._functions, []
        for each in functions:
            each(sender=self._app)
