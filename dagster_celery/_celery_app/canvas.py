"""Signatures of several tasks: one after the other, side by side, or one after all of others."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, TypeVar

from dagster_celery._celery_app import in_tests
from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.preparing import prepare, result_of, send
from dagster_celery._celery_app.results import EagerResult, GroupResult
from dagster_celery._celery_app.signature import Sent, Signature, as_list, maybe_signature
from dagster_taskiq.errors import ConfigError

C = TypeVar("C", bound="Canvas")

#: Of each item, one call of the task of ``task``; tasks of every app, by Celery's names.
MAP, STARMAP = "celery.map", "celery.starmap"


class Canvas(Signature):
    """A signature that is sent as several tasks."""

    kind: ClassVar[str]

    def __init__(
        self, kwargs: Mapping[str, Any], app: SendingApp | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(f"celery.{self.kind}", (), kwargs, options, app=app)

    @property
    def app(self) -> SendingApp:
        """The app that sends it: that of its first task, unless it has one."""
        first = next((each for each in self.parts() if isinstance(each, Signature)), None)
        return self._app or (super().app if first is None else first.app)

    def parts(self) -> list[Any]:
        """Return the signatures that it consists of."""
        raise NotImplementedError

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sent:
        """Send its first tasks; the others follow.

        Args:
            args: go before those of its first tasks.
            kwargs: go to its first tasks.
            options: as for a task's own ``apply_async``, for the first tasks. ``task_id`` is the id
                of the result, ``link`` and ``link_error`` as the methods of these names.
        """
        if self.app.is_eager:
            with in_tests.sending():
                eager: Sent = self.apply(args, kwargs, **options)
            return eager
        whole = self.clone()
        for errback in as_list(options.pop("link_error", None)):
            whole.link_error(errback)
        for callback in as_list(options.pop("link", None)):
            whole.link(callback)
        prepared = prepare(whole, self.app, options)
        send(prepared, (*(args or ()), *self.args), kwargs or {})
        result: Sent = result_of(prepared)
        return result

    def freeze(self, _id: str | None = None, **_: Any) -> Any:
        """Give its tasks their ids before it is sent, and return its result."""
        prepared = prepare(self, self.app, {"task_id": _id} if _id else {})
        self["kwargs"], self["options"] = prepared["kwargs"], prepared["options"]
        return result_of(prepared)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it, with these arguments for its first tasks."""
        return self.apply_async(args, **options)


class chain(Canvas):
    """Tasks one after the other, each with the value of the one before as its first argument."""

    kind = "chain"

    def __init__(self, *tasks: Any, app: SendingApp | None = None, **options: Any) -> None:
        """Make a chain of signatures, or of one list of them.

        Args:
            tasks: the signatures.
            app: sends it; that of the first one for ``None``.
            options: as for :meth:`apply_async`.
        """
        found: list[Any] = []
        for each in _listed(tasks):
            made = maybe_signature(each, app)
            if isinstance(made, chain) and not made.options:
                found += made.tasks
            else:
                found.append(made)
        super().__init__({"tasks": found}, app, options)

    @classmethod
    def of(cls, fields: Mapping[str, Any], app: SendingApp | None) -> "chain":
        """Return one for the fields of a dictionary."""
        return cls(*fields["kwargs"]["tasks"], app=app, **(fields["options"] or {}))

    @property
    def tasks(self) -> list[Any]:
        """Its signatures."""
        return list(self.kwargs["tasks"])

    def parts(self) -> list[Any]:
        """Return the signatures that it consists of."""
        return self.tasks

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run its tasks in this process, one after the other, and return the last one's result."""
        values, names, last = tuple(args or ()), kwargs, None
        for each in prepare(self, self.app, {})["kwargs"]["tasks"]:
            found = each.apply(values, names, **options)
            found.parent, last = last, found
            values, names = (found.get(),), None
        return last

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks))


class group(Canvas):
    """Tasks side by side."""

    kind = "group"

    def __init__(self, *tasks: Any, app: SendingApp | None = None, **options: Any) -> None:
        """Make a group of signatures, or of one list of them; see :class:`chain`."""
        found = [maybe_signature(each, app) for each in _listed(tasks)]
        super().__init__({"tasks": found}, app, options)

    @classmethod
    def of(cls, fields: Mapping[str, Any], app: SendingApp | None) -> "group":
        """Return one for the fields of a dictionary."""
        return cls(list(fields["kwargs"]["tasks"]), app=app, **(fields["options"] or {}))

    @property
    def tasks(self) -> list[Any]:
        """Its signatures."""
        return list(self.kwargs["tasks"])

    def parts(self) -> list[Any]:
        """Return the signatures that it consists of."""
        return self.tasks

    def link(self, callback: Signature) -> Signature:
        """Have another signature sent when the first of its tasks has succeeded, as in Celery."""
        alone = callback.clone().set(immutable=True)
        return self.tasks[0].link(alone) if self.tasks else alone

    def link_error(self, errback: Signature) -> Signature:
        """Have another signature called for each of its tasks that fails."""
        for each in self.tasks:
            each.link_error(errback.clone())
        return errback

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run its tasks in this process, and return their results."""
        found = [each.apply(args, kwargs, **options) for each in self.tasks]
        return GroupResult(str(uuid.uuid4()), found)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        return chord(self, other, app=self._app)

    def __len__(self) -> int:
        return len(self.kwargs["tasks"])

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"group({self.tasks!r})"


class chord(Canvas):
    """A group, and a task that gets the list of the values of the group's tasks."""

    kind = "chord"

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: Any = None,
        args: Any = None,
        kwargs: Any = None,
        app: SendingApp | None = None,
        **options: Any,
    ) -> None:
        """Make a chord.

        Args:
            header: the group, or its signatures.
            body: the signature that follows.
            task: has no effect (Celery's own argument).
            args: has no effect (Celery's own argument).
            kwargs: has no effect (Celery's own argument).
            app: sends it; that of the first signature for ``None``.
            options: as for :meth:`apply_async`.
        """
        del task, args, kwargs
        made = maybe_signature(header, app)
        made = made if isinstance(made, group) else group(header, app=app)
        super().__init__({"header": made, "body": maybe_signature(body, app)}, app, options)

    @classmethod
    def of(cls, fields: Mapping[str, Any], app: SendingApp | None) -> "chord":
        """Return one for the fields of a dictionary."""
        parts = fields["kwargs"]
        return cls(parts["header"], parts["body"], app=app, **(fields["options"] or {}))

    @property
    def tasks(self) -> list[Any]:
        """The signatures of its header."""
        return list(self.kwargs["header"].tasks)

    @property
    def body(self) -> Any:
        """The signature that follows."""
        return self.kwargs["body"]

    def parts(self) -> list[Any]:
        """Return the signatures that it consists of."""
        return [*self.tasks, self.body]

    def link(self, callback: Signature) -> Signature:
        """Have another signature sent when its body has succeeded."""
        self._checked_body().link(callback)
        return callback

    def link_error(self, errback: Signature) -> Signature:
        """Have another signature called when its body, or a task of its header, has failed."""
        self._checked_body().link_error(errback)
        return errback

    def _checked_body(self) -> Any:
        if self.body is None:
            raise ConfigError("This chord has no body yet: write `chord(header)(body)`.")
        return self.body

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body."""
        whole = self.clone()
        if body is not None:
            whole.kwargs["body"] = maybe_signature(body, self._app).clone()
        return whole.apply_async((), {}, **options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sent:
        """Send its header; its body follows. As :meth:`Canvas.apply_async`."""
        self._checked_body()
        return super().apply_async(args, kwargs, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run its tasks in this process, and return the result of its body."""
        values = self.kwargs["header"].apply(args, kwargs, **options).get()
        return self._checked_body().apply((values,), **options)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        made = self.clone()
        made.kwargs["body"] = chain(made.body, other, app=self._app)
        return made

    def __repr__(self) -> str:
        return f"chord({self.tasks!r}, {self.body!r})"


class _Mapped(Signature):
    """One task that calls another for each item."""

    task_name: ClassVar[str]

    def __init__(
        self, task: Any, it: Iterable[Any], app: SendingApp | None = None, **options: Any
    ) -> None:
        """Map a signature, or a task, over items."""
        one = task if isinstance(task, Mapping) else Signature(task)
        app = app or getattr(one, "_app", None)
        super().__init__(self.task_name, (), {"task": one, "it": list(it)}, options, app=app)

    @classmethod
    def of(cls: Callable[..., Any], fields: Mapping[str, Any], app: SendingApp | None) -> Any:
        """Return one for the fields of a dictionary."""
        parts = fields["kwargs"]
        return cls(parts["task"], parts["it"], app=app, **(fields["options"] or {}))


class xmap(_Mapped):
    """One task that calls another with each item, and has the list of its values."""

    kind = "xmap"
    task_name = MAP


class xstarmap(_Mapped):
    """As :class:`xmap`, with items that are lists of arguments."""

    kind = "xstarmap"
    task_name = STARMAP


class chunks(Canvas):
    """A group of :class:`xstarmap`, of so many items each."""

    kind = "chunks"

    def __init__(
        self, task: Any, it: Iterable[Any], n: int, app: SendingApp | None = None, **options: Any
    ) -> None:
        """Make chunks.

        Args:
            task: a signature, or a task.
            it: items, which are lists of arguments.
            n: how many of them go into each task.
            app: sends it; that of the signature for ``None``.
            options: as for :meth:`apply_async`.
        """
        one = task if isinstance(task, Mapping) else Signature(task)
        super().__init__({"task": one, "it": list(it), "n": n}, app, options)

    @classmethod
    def of(cls, fields: Mapping[str, Any], app: SendingApp | None) -> "chunks":
        """Return one for the fields of a dictionary."""
        parts = fields["kwargs"]
        return cls(parts["task"], parts["it"], parts["n"], app=app, **(fields["options"] or {}))

    def parts(self) -> list[Any]:
        """Return the signatures that it consists of."""
        return [self.kwargs["task"]]

    def group(self) -> group:
        """Return the group that it is sent as."""
        items = iter(self.kwargs["it"])
        parts = iter(lambda: list(islice(items, self.kwargs["n"])), [])
        made = [xstarmap(self.kwargs["task"], each, app=self._app) for each in parts]
        return group(made, app=self._app, **self.options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "EagerResult | GroupResult":
        """Run its tasks in this process, and return their results."""
        found: GroupResult = self.group().apply(args, kwargs, **options)
        return found

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, **options: Any) -> Sent:
        """Send a task in chunks (Celery's own method)."""
        return cls(task, it, n).apply_async(**options)


def _listed(tasks: Sequence[Any]) -> list[Any]:
    """Return signatures that were given one by one, or as one list or generator of them."""
    if len(tasks) == 1:
        (one,) = tasks
        if isinstance(one, group):
            return one.tasks
        if not isinstance(one, Mapping) and isinstance(one, Iterable):
            return list(one)
    return list(tasks)


Signature.kinds.update({each.kind: each for each in (chain, group, chord, chunks, xmap, xstarmap)})
