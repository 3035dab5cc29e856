"""Context variables (``contextvars``), structlog's and the decimal context among them."""

import contextvars
import decimal
from typing import Any

#: What calculations depend on; the rest of a decimal context is what they have come across.
_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")

#: The variables of a context at some moment, and of the decimal context what is in it.
Look = dict[contextvars.ContextVar[Any], Any]


class ContextVariables:
    """The context variables with which each task begins: those of the current context, now.

    A decimal context is one value that is changed in place, so each task has its own copy of it.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()

    def copy(self) -> contextvars.Context:
        """Return a context for one task."""
        context = self._context.copy()
        for variable, value in context.items():
            if isinstance(value, decimal.Context):
                context.run(variable.set, value.copy())
        return context

    def look(self) -> Look:
        """Return the variables of the current context."""
        return {
            variable: _inside(value) if isinstance(value, decimal.Context) else value
            for variable, value in contextvars.copy_context().items()
        }

    def keep(self, before: Look) -> None:
        """Let tasks begin with what was set in the current context since that look."""
        for variable, value in contextvars.copy_context().items():
            if isinstance(value, decimal.Context):
                # If there was none, Python made one when it was first read.
                earlier = before.get(variable, _inside(decimal.Context()))
                changed = {k: each for k, each in _inside(value).items() if each != earlier[k]}
                kept = self._context.get(variable, decimal.Context()).copy()
                for name, each in changed.items():
                    setattr(kept, name, each)
                self._context.run(variable.set, kept)
            elif variable not in before or before[variable] is not value:
                self._context.run(variable.set, value)


def _inside(context: decimal.Context) -> dict[str, Any]:
    return {**{name: getattr(context, name) for name in _DECIMAL}, "traps": dict(context.traps)}
