"""Tasks of an app, as ``@app.task`` makes them."""

import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.conf import Conf
from dagster_celery._celery_app.request import Request, current_request, eagerly
from dagster_celery._celery_app.results import AsyncResult, EagerResult
from dagster_celery._celery_app.signature import Signature
from dagster_celery._celery_app.task_options import checked


class SendingApp(Protocol):
    """What a task uses of its app."""

    @property
    def conf(self) -> Conf:
        """The app's configuration."""

    @property
    def is_eager(self) -> bool:
        """Whether tasks run in the process that sends them, at once."""

    def send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AsyncResult:
        """Send a task with options that have been checked."""

    def AsyncResult(self, task_id: str) -> AsyncResult:
        """Return the result of a task that was sent before."""


class Task:
    """A task of an app."""

    def __init__(
        self, app: SendingApp, function: Callable[..., Any], name: str, bind: bool, options: Any
    ) -> None:
        """Make the task.

        Args:
            app: sends it.
            function: does it.
            name: it is sent and found by this name.
            bind: whether the function gets the task as its first argument.
            options: defaults for those of :meth:`apply_async`.

        Raises:
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        self.app = app
        self.name = name
        self.options: dict[str, Any] = checked(options)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self._bind = bind

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function in this process, and return its value."""
        return self.run(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function, and return its value.

        A bound function gets the task first; it is not among ``args``.
        """
        return self.__wrapped__(*((self,) if self._bind else ()), *args, **kwargs)

    @property
    def request(self) -> Request:
        """The request of the task that runs now; an empty one if it was called directly."""
        return current_request()

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes further arguments."""
        return Signature(self, args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature that takes no further arguments."""
        return Signature(self, args, kwargs, immutable=True)

    def signature(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature:
        """Return a signature with these arguments and options."""
        return Signature(self, tuple(args), dict(kwargs or {}), options=options)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult | EagerResult:
        """Send the task with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult | EagerResult:
        """Send the task.

        Args:
            args: its positional arguments; JSON data, as all arguments, and times, decimals, UUIDs
                and bytes.
            kwargs: its arguments by name.
            options: ``queue``; ``routing_key``, by which ``task_queues`` name a queue if there is
                no ``queue``; ``priority``, higher first; ``countdown`` in seconds, or ``eta``, a
                time, before which the task does not start; ``expires``, seconds or a time after
                which it does not; ``time_limit`` and ``soft_time_limit`` in seconds; ``task_id``.

        Returns:
            The result, to be waited for; in eager mode that of the task, which has run.

        Raises:
            ServerUnavailableError: the broker does not answer; nothing was sent.
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        merged = {**self.options, **checked(options)}
        if self.app.is_eager:
            return self.apply(args, kwargs, task_id=merged.get("task_id"))
        return self.app.send(self.name, args or (), kwargs or {}, merged)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> EagerResult:
        """Run the task in this process.

        Args:
            args: its positional arguments.
            kwargs: its arguments by name.
            task_id: its id; a new one for ``None``.
            options: as for :meth:`apply_async`; they are checked, and change nothing.

        Returns:
            Its result, with its exception if it raised one.

        Raises:
            ConfigError: as :meth:`apply_async`.
            Exception: that of the task, if the setting ``task_eager_propagates`` is true.
        """
        checked(options)
        request = Request(
            id=task_id or str(uuid.uuid4()),
            args=args or (),
            kwargs=kwargs or {},
            hostname=socket.gethostname(),
            called_directly=False,
            is_eager=True,
        )
        with eagerly(request):
            return EagerResult.of(
                str(request.id),
                lambda: self(*request.args, **request.kwargs),
                propagate=bool(self.app.conf.task_eager_propagates),
            )

    def AsyncResult(self, task_id: str) -> AsyncResult:
        """Return the result of a task that was sent before."""
        return self.app.AsyncResult(task_id)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Celery's tasks have their options as attributes.
            options = self.__dict__.get("options", {})
            if name in options:
                return options[name]
            raise absent(f"task {self.__dict__.get('name', '')}", name)
