"""When a task is executed again, and with which arguments."""

import inspect
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dagster_celery._celery_app.request import Request

#: The kinds of parameters that take positional arguments.
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def seconds_of_backoff(first: float, retries: int, longest: float, jitter: bool) -> float:
    """Return how long to wait before a task is executed again.

    Args:
        first: seconds of the first pause; each is twice as long as the one before.
        retries: how often it was executed again.
        longest: seconds of the longest pause.
        jitter: whether it is a random part of that.
    """
    seconds = min(int(longest), int(max(1.0, first)) * 2**retries)
    return random.randrange(seconds + 1) if jitter else seconds


def next_arguments(
    function: Callable[..., Any],
    request: Request,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments for the next execution of a task.

    Args:
        function: the task's, without the task as its first argument.
        request: of the execution that is to be repeated.
        args: the positional arguments, if they are new.
        kwargs: the arguments by name, if they are new.

    Returns:
        The new ones; and of the old ones those that are not given anew, in either way.
    """
    if args is None and kwargs is None:
        return request.args, request.kwargs
    if args is not None and kwargs is not None:
        return args, kwargs
    try:
        parameters = inspect.signature(function)
    except (TypeError, ValueError):
        return (request.args if args is None else args), (
            request.kwargs if kwargs is None else kwargs
        )
    if args is not None:
        names = [each.name for each in parameters.parameters.values() if each.kind in _POSITIONAL]
        given = names[: len(args)]
        return args, {name: each for name, each in request.kwargs.items() if name not in given}
    named = dict(kwargs or {})
    try:
        bound = parameters.bind_partial(*request.args)
    except TypeError:
        return request.args, named
    for name in [each for each in named if each in bound.arguments]:
        if parameters.parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            bound.arguments[name] = named.pop(name)
    return bound.args, {**bound.kwargs, **named}


def raise_in_context(error: BaseException) -> NoReturn:
    """Raise an error; caused by the one that is being handled, if there is another."""
    handled = sys.exc_info()[1]
    if handled is None or handled is error:
        raise error
    raise error from handled
