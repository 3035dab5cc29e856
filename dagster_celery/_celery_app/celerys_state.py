"""What Celery, where it is imported, knows of its apps: the current one, and all of them.

By that, tasks of ``celery.shared_task`` find the app that sends them, and the app gets those tasks.
Celery's own apps enter themselves there in the same way, as the app of dagster-celery did. Celery
is not imported here: this is done when a module of the project imports it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import wrapt

from dagster_celery._warnings import warn_of_loss

_MODULE = "celery._state"
#: The module of Celery's own tasks, which are shared with all apps and are of no use here.
_BUILT_IN = "celery.app.builtins"
#: What is used of Celery's module, which is private.
_USED = ("_on_app_finalizers", "_register_app", "_set_current_app", "set_default_app")


def enter(app: Any, *, as_current: bool) -> None:
    """Enter an app in what Celery knows, as soon as this process has imported Celery.

    Args:
        app: has ``_task_from_fun()``, by which it gets the tasks that are shared with all apps.
        as_current: whether shared tasks are sent by it from then on.
    """

    def imported(state: ModuleType) -> None:
        if not all(hasattr(state, name) for name in _USED):
            warn_of_loss(
                "The tasks of celery.shared_task are not served here: this release of Celery keeps "
                "them in another way. Define them by `@app.task`."
            )
            return
        if as_current:
            _make_current(state, app)
        for callback in list(state._on_app_finalizers):
            if not _is_built_in(callback):
                callback(app)
        state._register_app(app)

    wrapt.register_post_import_hook(imported, _MODULE)


def become_current(app: Any) -> None:
    """Let shared tasks be sent by an app from now on."""
    wrapt.register_post_import_hook(lambda state: _make_current(state, app), _MODULE)


@contextmanager
def running_task(task: Any) -> Iterator[None]:
    """Let ``celery.current_task`` be a task for the time of a call, where Celery is imported."""
    stack = getattr(sys.modules.get(_MODULE), "_task_stack", None)
    if stack is None:
        yield
        return
    stack.push(task)
    try:
        yield
    finally:
        stack.pop()


def _make_current(state: Any, app: Any) -> None:
    state._set_current_app(app)
    if getattr(state, "default_app", None) is None:  # of threads other than this one
        state.set_default_app(app)


def _is_built_in(callback: Callable[..., Any]) -> bool:
    return getattr(callback, "__module__", "") == _BUILT_IN
