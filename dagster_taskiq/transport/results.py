"""Results of tasks as JSON, with errors that come back as what they were.

The JSON is that of taskiq's ``TaskiqResult``, and an error in it is what taskiq makes of one: the
module and name of its class, and its arguments. In addition it has the error's attributes, and its
text where the arguments do not give it. What is read makes no class known that this process does
not have, and calls nothing that a message or a result names: a class is looked up among those that
are loaded, and its own constructor is not called.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from taskiq import BrokerMessage, TaskiqResult
from taskiq.exceptions import SecurityError
from taskiq.serialization import ensure_serializable, safe_repr

from dagster_taskiq.errors import ChildDiedError, TaskFailedError
from dagster_taskiq.wire.records import TaskState

#: How many causes and contexts of an error are kept.
MOST_CAUSES = 16
#: How many characters are kept of the description of an attribute that is not JSON.
LONGEST_DESCRIPTION = 500


def as_json(result: TaskiqResult[Any]) -> tuple[TaskiqResult[Any], bytes]:
    """Return a result with its JSON; if JSON cannot hold its value, a failure in its place.

    Labels that JSON cannot hold, which a middleware may have set for itself, are left out.
    """
    try:
        return result, _dumps(result)
    except (TypeError, ValueError):
        result.labels = {name: each for name, each in result.labels.items() if _is_plain(each)}
    try:
        return result, _dumps(result)
    except (TypeError, ValueError) as error:
        problem = TypeError(f"The task's return value is not JSON: {error}")
        failed = replace_result(result, problem)
        return failed, _dumps(failed)


def result_from_json(stored: str | bytes) -> TaskiqResult[Any]:
    """Return the result of which :func:`as_json` has made JSON.

    An error that is no ``Exception``, such as the ``SystemExit`` of ``sys.exit()``, is the cause of
    one that is: raised where a result is waited for, it would end that process.

    Raises:
        ValueError: it is no result.
        SecurityError: its error names something that is no exception.
    """
    # Python's own reader takes all that Python's own writer writes, lone surrogates for example.
    read = _Result.model_validate(json.loads(stored))
    result = TaskiqResult[Any].model_validate(read.model_extra)
    if read.error is not None:
        error = _error_from(read.error)
        result.error = error if isinstance(error, Exception) else _as_failure(error)
    return result


def replace_result(result: TaskiqResult[Any], error: BaseException) -> TaskiqResult[Any]:
    """Return ``result`` as a failure with ``error`` and no value."""
    return failure(error, result.labels, result.execution_time)


def failure(
    error: BaseException, labels: Mapping[str, Any] | None = None, execution_time: float = 0.0
) -> TaskiqResult[Any]:
    """Return the result of a task that has failed with an error.

    Args:
        error: the error.
        labels: those of the result.
        execution_time: how long it was executed, in seconds.
    """
    return TaskiqResult(
        is_err=True,
        return_value=None,
        execution_time=execution_time,
        labels=dict(labels or {}),
        error=error,
    )


@dataclass(frozen=True)
class ReportedEnd:
    """How a task has ended, as the process that executed it has written it, to be kept as it is."""

    state: TaskState
    #: Why it did not succeed, in one sentence.
    error: str
    #: The result, as :func:`as_json` has made it.
    result: bytes


@dataclass(frozen=True)
class PutBack:
    """A user's own task has ended without a result: it is to wait again."""

    #: Its new message; ``None`` if that is sent later, for example by a scheduler.
    message: BrokerMessage | None = None


class _Result(BaseModel, extra="allow"):
    """The part of a result that taskiq would read in its own way."""

    error: "_Error | None" = None


class _Error(BaseModel):
    """An error as plain data: what taskiq's own JSON has, and the last two."""

    exc_type: str
    exc_message: list[Any]
    exc_module: str | None
    exc_cause: "_Error | None" = None
    exc_context: "_Error | None" = None
    exc_suppress_context: bool = False
    #: Its text, if that is not what the arguments give.
    exc_text: str | None = None
    #: Its attributes, with a description of each that is not JSON; and those that are errors.
    exc_attributes: dict[str, Any] = Field(default_factory=dict)
    exc_errors: "dict[str, _Error]" = Field(default_factory=dict)


def _is_plain(label: object) -> bool:
    return label is None or isinstance(label, str | int | float | bool)


def _dumps(result: TaskiqResult[Any]) -> bytes:
    plain = result.model_dump(mode="json", exclude={"error"})
    error = _describe(result.error, MOST_CAUSES)
    plain["error"] = None if error is None else error.model_dump(exclude_defaults=True)
    return json.dumps(plain).encode()


def _describe(error: BaseException | None, most: int) -> _Error | None:
    """Return an error as plain data, with so many of its causes and contexts in a row at most."""
    if error is None or not most:
        return None
    arguments = ensure_serializable(_arguments_of(error), json)
    text = text_of(error)
    return _Error(
        exc_type=type(error).__qualname__,
        exc_message=list(arguments),
        exc_module=type(error).__module__,
        exc_cause=_describe(error.__cause__, most - 1),
        exc_context=None if error.__suppress_context__ else _describe(error.__context__, most - 1),
        exc_suppress_context=error.__suppress_context__,
        exc_text=None if text == str(Exception(*arguments)) else text,
        exc_attributes={
            name: value if _is_json(value) else safe_repr(value)[:LONGEST_DESCRIPTION]
            for name, value in vars(error).items()
            if not isinstance(value, BaseException)
        },
        exc_errors={
            name: inner
            for name, value in vars(error).items()
            if isinstance(value, BaseException)
            # Without its own causes, which may be those of the error itself.
            and (inner := _describe(value, min(most - 1, 1))) is not None
        },
    )


def _arguments_of(error: BaseException) -> tuple[Any, ...]:
    """Return what an error is made of; those of the operating system keep a part elsewhere."""
    if isinstance(error, OSError) and len(error.args) == 2 and error.filename is not None:
        more = () if error.filename2 is None else (None, error.filename2)
        return (*error.args, error.filename, *more)
    # A class may have made something else of that name.
    arguments: tuple[Any, ...] = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    return arguments


def text_of(error: BaseException | None) -> str | None:
    """Return the text of an error; ``None`` if its class fails to give one."""
    if error is None:
        return None
    try:
        return str(error)
    except Exception:
        return None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _error_from(described: _Error) -> BaseException:
    """Return the error that was described.

    Raises:
        SecurityError: it names something that is no exception.
    """
    kind = _loaded_class(described.exc_module or "", described.exc_type)
    error = None if kind is None else _instance(kind, described)
    if error is None:
        error = _stand_in(described)
    if described.exc_cause is not None:
        error.__cause__ = _error_from(described.exc_cause)
    if described.exc_context is not None:
        error.__context__ = _error_from(described.exc_context)
    error.__suppress_context__ = described.exc_suppress_context
    return error


def _as_failure(error: BaseException) -> Exception:
    """Return the failure of a task by an error that is no ``Exception``."""
    is_end = isinstance(error, SystemExit | KeyboardInterrupt)
    failure = (ChildDiedError if is_end else TaskFailedError)(
        f"The task raised {type(error).__qualname__}: {text_of(error)}".rstrip(": ")
    )
    failure.__cause__ = error
    return failure


def _loaded_class(module: str, name: str) -> type[BaseException] | None:
    """Return the class of a name, if its module is loaded and has it.

    What is looked up is only read: a module may import something when one of its names is asked
    for.

    Raises:
        SecurityError: the name is that of something else.
    """
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        try:
            found = vars(found)[part]
        except (KeyError, TypeError):
            return None
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise SecurityError(description=f"{module}.{name} is no exception")
    return found


def _instance(kind: type[BaseException], described: _Error) -> BaseException | None:
    """Return an error of a loaded class, or of a subclass; ``None`` if none can be made.

    Only Python's own constructors are called. One that a user has written takes other arguments
    than an exception keeps, and may do anything.
    """
    arguments, text = described.exc_message, described.exc_text
    is_plain = type(kind) is type
    try:
        if is_plain and all(_is_pythons(kind, each) for each in ("__new__", "__init__")):
            error: BaseException = kind(*arguments)
        else:
            error = _new(kind, arguments)
        _set_attributes(error, described)
        if text is None or text_of(error) == text:
            repr(error)
            return error
        if not is_plain or not _is_pythons(kind, "__init_subclass__"):
            return None
        # What its text is made of is not among arguments and attributes.
        error = _new(_with_text(kind, described), arguments)
        _set_attributes(error, described)
        repr(error)
    except SecurityError:
        raise
    except Exception:  # whatever a class makes of what is missing
        return None
    return error


def _new(kind: type[BaseException], arguments: list[Any]) -> BaseException:
    """Return an error for which no constructor of a user's is called."""
    error: BaseException = _pythons_base(kind).__new__(kind, *arguments)
    error.args = tuple(arguments)
    return error


def _set_attributes(error: BaseException, described: _Error) -> None:
    """Give an error the described attributes; nothing of its class is called for that."""
    vars(error).update(described.exc_attributes)
    for name, inner in described.exc_errors.items():
        vars(error)[name] = _error_from(inner)


def _is_pythons(kind: type, method: str) -> bool:
    """Return whether a class has a method from one of Python's own classes."""
    owner = next(each for each in kind.__mro__ if method in vars(each))
    return owner.__module__ == "builtins"


def _pythons_base(kind: type) -> type:
    """Return the one of Python's own classes whose memory layout the objects of a class have."""
    while kind.__module__ != "builtins" and kind.__base__ is not None:
        kind = kind.__base__
    return kind


def _stand_in(described: _Error) -> BaseException:
    """Return an error of a class of that name, which is made here as taskiq makes one."""
    error = _with_text(Exception, described)(*described.exc_message)
    _set_attributes(error, described)
    return error


def _with_text(base: type[BaseException], described: _Error) -> type[BaseException]:
    """Return a new class of the described name, whose errors have the described text."""
    content: dict[str, Any] = {
        "__module__": described.exc_module or __name__,
        "__qualname__": described.exc_type,
    }
    if described.exc_text is not None:
        content["__str__"] = lambda _: described.exc_text
    kind: type[BaseException] = type(described.exc_type.rpartition(".")[2], (base,), content)
    return kind
