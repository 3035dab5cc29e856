"""A task with the arguments of a later call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dagster_celery._celery_app.results import AsyncResult, EagerResult


class SignedTask(Protocol):
    """What a signature uses of its task."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function in this process."""

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> EagerResult:
        """Run the task in this process, and return its result."""

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Send the task."""


@dataclass
class Signature:
    """A task with the arguments it will be called with."""

    task: SignedTask
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Whether arguments given later are ignored.
    immutable: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def set(self, **options: Any) -> "Signature":
        """Keep options for :meth:`apply_async`, and return the signature."""
        self.options.update(options)
        return self

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Send the task; the options are those of a task's own ``apply_async``."""
        return self.task.apply_async(*self._with(args, kwargs), **{**self.options, **options})

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult | EagerResult:
        """Send the task with these further arguments."""
        return self.apply_async(args, kwargs)

    def apply(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> EagerResult:
        """Run the task in this process, and return its result."""
        return self.task.apply(*self._with(args, kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function in this process, and return its value."""
        all_args, all_kwargs = self._with(args, kwargs)
        return self.task(*all_args, **all_kwargs)

    def _with(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments: as in Celery, further positional ones come before the own ones."""
        if self.immutable:
            return self.args, self.kwargs
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}
