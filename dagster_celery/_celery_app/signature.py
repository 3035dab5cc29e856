"""A task with the arguments and options of a later call."""

import copy
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, TypeVar

from dagster_celery._celery_app.current_app import AppTask, SendingApp, current_app
from dagster_celery._celery_app.results import AsyncResult, EagerResult, GroupResult

S = TypeVar("S", bound="Signature")

#: What sending a signature returns.
Sent = AsyncResult | EagerResult | GroupResult

#: Options that are lists, to which a call adds instead of replacing them.
_LISTS = ("link", "link_error")


class Signature(dict[str, Any]):
    """A task with the arguments it will be called with.

    It is a dictionary of the form that Celery's signatures have, so that it can be an argument of a
    task: there it arrives as a dictionary, and :func:`maybe_signature` makes it a signature again.
    """

    #: What else than a call of one task it is; ``None`` for that.
    kind: ClassVar[str | None] = None
    #: The classes for other kinds, by kind.
    kinds: ClassVar[MutableMapping[str, Any]] = {}

    def __init__(
        self,
        task: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: SendingApp | None = None,
        **more_options: Any,
    ) -> None:
        """Make a signature.

        Args:
            task: the task, or its name.
            args: its positional arguments.
            kwargs: its arguments by name.
            options: those of the call, as for a task's own ``apply_async``.
            immutable: whether arguments given later are ignored.
            app: sends it; that of the task, else the current one for ``None``.
            more_options: more options.
        """
        super().__init__(
            task=getattr(task, "name", task),
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **more_options},
            subtask_type=self.kind,
            immutable=immutable,
        )
        self._app = app or getattr(task, "app", None)

    @property
    def app(self) -> SendingApp:
        """The app that sends it."""
        return self._app or current_app()

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self["task"])

    #: The same as ``name`` (Celery's own attribute).
    task = name

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(self["args"])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self["args"] = tuple(args)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments by name."""
        found: dict[str, Any] = self["kwargs"]
        return found

    @kwargs.setter
    def kwargs(self, kwargs: Mapping[str, Any]) -> None:
        self["kwargs"] = dict(kwargs)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the call."""
        found: dict[str, Any] = self["options"]
        return found

    @property
    def immutable(self) -> bool:
        """Whether arguments given later are ignored."""
        return bool(self["immutable"])

    @property
    def id(self) -> str | None:
        """The id that the task will have, if that is set already."""
        found = self.options.get("task_id")
        return None if found is None else str(found)

    @property
    def type(self) -> AppTask | None:
        """The task, if it is defined on the app."""
        return self.app.tasks.get(self.name)

    def set(self: S, immutable: bool | None = None, **options: Any) -> S:
        """Keep options for :meth:`apply_async`, and return the signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Have arguments given later ignored, or not."""
        self["immutable"] = immutable

    def clone(
        self: S,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> S:
        """Return a copy with further arguments and options."""
        made = copy.copy(self)
        dict.update(made, copy.deepcopy(dict(self)))
        made["args"], made["kwargs"] = made.merged(args, kwargs)
        made.options.update(options)
        return made

    #: The same as ``clone`` (Celery's own method).
    partial = clone

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        made = copy.copy(self)
        dict.update(made, copy.deepcopy(dict(self), memo))
        return made

    def __copy__(self: S) -> S:
        made = type(self).__new__(type(self))
        dict.update(made, self)
        made.__dict__.update(self.__dict__)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return maybe_signature, (dict(self),)

    def merged(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return all arguments: as in Celery, further positional ones come before the own ones."""
        if self.immutable:
            return self.args, self.kwargs
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}

    def link(self, callback: "Signature") -> "Signature":
        """Have another signature sent, with the value of this one, when this one has succeeded."""
        return self._add("link", callback)

    def link_error(self, errback: "Signature") -> "Signature":
        """Have another signature called when this one has failed.

        With the id of the failed task as its argument; if its task takes more than one, it is
        called where that one has failed, with its request, the exception and the traceback.
        """
        return self._add("link_error", errback)

    def on_error(self: S, errback: "Signature") -> S:
        """Do the same as :meth:`link_error`, and return this signature."""
        self.link_error(errback)
        return self

    def _add(self, option: str, signature: "Signature") -> "Signature":
        known = as_list(self.options.get(option))
        self.options[option] = known if signature in known else [*known, signature]
        return signature

    def freeze(self, _id: str | None = None, **_: Any) -> Any:
        """Give the task its id before it is sent, unless it has one, and return its result."""
        self.options["task_id"] = self.id or _id or str(uuid.uuid4())
        return self.app.AsyncResult(self.options["task_id"])

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Sent:
        """Send the task; the options are those of a task's own ``apply_async``."""
        all_args, all_kwargs = self.merged(args or (), kwargs)
        merged = {**self.options, **options}
        for each in _LISTS:
            if each in self.options and each in options:
                merged[each] = [*as_list(self.options[each]), *as_list(options[each])]
        task = self.type
        if task is None:
            sent: Sent = self.app.send_task(self.name, all_args, all_kwargs, **merged)
        else:
            sent = task.apply_async(all_args, all_kwargs, **merged)
        return sent

    def delay(self, *args: Any, **kwargs: Any) -> Sent:
        """Send the task with these further arguments."""
        return self.apply_async(args, kwargs)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult | GroupResult:
        """Run the task in this process, and return its result."""
        all_args, all_kwargs = self.merged(args or (), kwargs)
        merged = {**self.options, **options}
        found: EagerResult = self._known_type().apply(all_args, all_kwargs, **merged)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function in this process, and return its value."""
        all_args, all_kwargs = self.merged(args, kwargs)
        return self._known_type()(*all_args, **all_kwargs)

    def _known_type(self) -> AppTask:
        found = self.type
        if found is None:
            raise KeyError(f"The app has no task {self.name!r}, which is to run in this process.")
        return found

    def __invert__(self) -> Any:
        return self.apply_async().get()

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        return Signature.kinds["chain"](self, other, app=self._app)

    def __ror__(self, other: Any) -> Any:
        # Celery's own `chain(...)` adds its signatures to an empty one of its own.
        if not isinstance(other, Mapping):
            return NotImplemented
        return Signature.kinds["chain"](other, self, app=self._app)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the call with further arguments as a text; Celery's canvas uses it."""
        all_args, all_kwargs = self.merged(args, kwargs)
        given = [*map(repr, all_args), *(f"{k}={v!r}" for k, v in all_kwargs.items())]
        return f"{self.name}({', '.join(given)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __hash__(self) -> int:  # type: ignore[override] # a dictionary has none; Celery's have this
        return id(self)


def as_list(value: Any) -> list[Any]:
    """Return an option that is a list, or one signature of such a list, or nothing, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) else list(value)


def maybe_signature(value: Any, app: SendingApp | None = None) -> Any:
    """Return a signature for a dictionary of that form; anything else as it is.

    Args:
        value: a signature, one as JSON has it, one of Celery's own, or another value.
        app: is to send it; the current one for ``None``.
    """
    if isinstance(value, Signature):
        if value._app is None:
            value._app = app
        return value
    if not isinstance(value, Mapping) or "task" not in value:
        return value
    make = Signature.kinds.get(str(value.get("subtask_type")))
    fields: dict[str, Any] = {name: value.get(name) for name in ("args", "kwargs", "options")}
    made = Signature(value["task"], app=app, **fields) if make is None else make.of(fields, app)
    made.set_immutable(bool(value.get("immutable")))
    return made


def signature(varies: Any, *args: Any, app: SendingApp | None = None, **kwargs: Any) -> Any:
    """Return a signature of a task, its name, or a dictionary of the form of one (Celery's own).

    Args:
        varies: the task, name or dictionary.
        args: as for :class:`Signature`.
        app: is to send it; the current one for ``None``.
        kwargs: as for :class:`Signature`.
    """
    if isinstance(varies, Mapping):
        found = maybe_signature(varies, app)
        return found.clone() if isinstance(varies, Signature) else found
    return Signature(varies, *args, app=app, **kwargs)


#: The same as ``signature`` (Celery's older name).
subtask = signature
