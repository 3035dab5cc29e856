"""The kinds of rows that the table of settings consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dagster_celery._translate.connections.options import written
from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.rows import Fate, Row
from dagster_celery._translate.settings.draft import Draft, Given
from dagster_celery._translate.values import plain

#: Adds the value of a setting to a draft, and returns the rest of a sentence that begins with the
#: setting's name and names what to write instead; an empty text if the remarks name it already.
#: Raises ``ValueError`` with the rest of such a sentence if the value cannot be used.
Translate = Callable[[Draft, Given], str]

#: For a value that changes nothing.
IS_THE_DEFAULT = "has no effect here: it is the default. Leave it out."


@dataclass(frozen=True)
class Setting(Row):
    """A setting."""

    #: ``None`` for a setting that has no effect or is refused.
    translate: Translate | None = None


def setting(name: str, key: str, read: Callable[[Any], Any], note: str = "") -> Setting:
    """Return a row for a setting that is a setting of the engine.

    Args:
        name: Celery's name.
        key: the engine's name.
        read: see :mod:`dagster_celery._translate.values`; ``None`` from it is the default.
        note: a sentence that is added, with a space before it.
    """

    def translate(draft: Draft, given: Given) -> str:
        value = read(given.value)
        if value is None:
            return IS_THE_DEFAULT
        draft.settings[key] = value
        return f'is "{written({key: value})[1:-1]}" of taskiq_executor.{note}'

    return Setting(name, Fate.TRANSLATED, f"`{key}` of `taskiq_executor`.{note}", translate)


def worker_option(name: str, parameter: str, read: Callable[[Any], Any], note: str = "") -> Setting:
    """Return a row for a setting that is an option of ``dagster-taskiq worker start``.

    Args:
        name: Celery's name.
        parameter: the option's parameter.
        read: as for :func:`setting`.
        note: as for :func:`setting`.
    """
    option = f"--{parameter.replace('_', '-')}"

    def translate(draft: Draft, given: Given) -> str:
        value = read(given.value)
        if value is None:
            return IS_THE_DEFAULT
        draft.worker[parameter] = value
        return f'is "{option} {plain(value)}" of dagster-taskiq worker start.{note}'

    explanation = f"`{option}` of `dagster-taskiq worker start`.{note}"
    return Setting(name, Fate.TRANSLATED, explanation, translate)


def app_setting(name: str, read: Callable[[Any], Any]) -> Setting:
    """Return a row for a setting that only tasks of the app object use."""
    use = "read by the object that `make_app` returns, for tasks of your own. Steps do not use it."

    def translate(draft: Draft, given: Given) -> str:
        draft.app[name] = read(given.value)
        return f"is {use}"

    return Setting(name, Fate.TRANSLATED, use[0].upper() + use[1:], translate)


def backend_option(name: str, key: str, read: Callable[[Any], Any]) -> Setting:
    """Return a row for an option of the connection to a Redis that is the result backend."""

    def translate(draft: Draft, given: Given) -> str:
        if draft.backend_server not in (Server.REDIS, Server.SENTINEL, Server.SOCKET):
            return "has no effect here: the backend is no Redis of its own. Leave it out."
        value = read(given.value)
        if value is None:
            return "has no effect here, with this value. Leave it out."
        draft.add_options("backend_options", {key: value})
        return f'is "backend_options: {written({key: value})}" of taskiq_executor.'

    explanation = f"`{key}` of `backend_options`, if the backend is a Redis of its own."
    return Setting(name, Fate.TRANSLATED, explanation, translate)


def special(name: str, explanation: str, translate: Translate) -> Setting:
    """Return a row for a setting whose value depends on others, or becomes several things."""
    return Setting(name, Fate.TRANSLATED, explanation, translate)


def part_of_url(name: str, part: str) -> Setting:
    """Return a row for a part of a URL; ``server_urls`` has put the URL together before."""
    return special(name, f"{part[0].upper()}{part[1:]}.", lambda _, __: f"is {part}.")


def no_effect(because: str, *names: str) -> tuple[Setting, ...]:
    """Return rows for settings that have no effect, all for the same reason."""
    return tuple(Setting(name, Fate.NO_EFFECT, because) for name in names)


def lost(because: str, *names: str) -> tuple[Setting, ...]:
    """Return rows for settings that have no effect, so that something is not done."""
    return tuple(Setting(name, Fate.LOST, because) for name in names)


def refused(instead: str, *names: str) -> tuple[Setting, ...]:
    """Return rows for settings that are refused, with what to use instead."""
    return tuple(Setting(name, Fate.REFUSED, instead) for name in names)
