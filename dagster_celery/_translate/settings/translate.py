"""The translation of a configuration of Celery's."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from dagster_celery._translate.rows import Fate, Translation, did_you_mean
from dagster_celery._translate.settings.draft import Draft, Given
from dagster_celery._translate.settings.kinds import Setting, Translate
from dagster_celery._translate.settings.names import new_names
from dagster_celery._translate.settings.rows import SETTINGS, UNDECLARED
from dagster_celery._translate.settings.server_urls import (
    set_backend,
    set_broker,
    share_options,
)
from dagster_celery._translate.values import yes_or_no
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import resolve_env
from dagster_taskiq.settings.urls import SECRET_ARGUMENTS

#: Broker and backend of eager mode: the whole job runs in one process.
EAGER_URL = "memory://"

_ROWS: Mapping[str, Setting] = {**SETTINGS, **UNDECLARED}
_BY_OLD_NAME = new_names(SETTINGS)

#: Settings for which ``None`` is a value of its own.
_MAY_BE_NONE = ("result_expires",)


def translate_settings(
    source: Mapping[str, Any],
    broker: str = "",
    source_name: str = "config_source",
    backend: str = "",
) -> Translation:
    """Translate a configuration of Celery's, with a remark on every setting in it.

    Args:
        source: the settings, by their names today or the old ones; ``{"env": NAME}`` is resolved
            at any depth.
        broker: the URL of the broker, defaults included, in Celery's form or the engine's; its
            scheme decides what TLS and transport options become. If it is empty, the settings give
            the URL; if they do not, those options become nothing.
        source_name: the name of the source in remarks and errors.
        backend: the URL of the result backend, in the same way.

    Returns:
        The translation. The engine's URLs in it have what the settings add to them: TLS, the master
        of sentinels, a password.

    Raises:
        ConfigError: a setting is refused, or a value is of the wrong type or out of range.
    """
    given = _by_todays_name(resolve_env(source), source_name)
    draft = Draft(given)
    if _is_eager(given):
        broker = backend = EAGER_URL
    set_broker(draft, broker)
    set_backend(draft, backend)
    for each in given.values():
        _translate(draft, each, broker, backend)
    share_options(draft)
    return draft.finished()


def _is_eager(given: Mapping[str, Given]) -> bool:
    try:
        return "task_always_eager" in given and yes_or_no(given["task_always_eager"].value)
    except ValueError:
        return False  # translating its row raises the error


def _by_todays_name(source: Mapping[str, Any], source_name: str) -> dict[str, Given]:
    """Return the settings by their names today; an old name is ignored if today's is given."""
    given: dict[str, Given] = {}
    for name, value in source.items():
        today = _BY_OLD_NAME.get(name, name)
        if today == name or today not in source:
            given[today] = Given(f"{source_name}.{name}", today, value)
    return given


def _translate(draft: Draft, given: Given, broker: str, backend: str) -> None:
    row = _ROWS.get(given.name)
    if row is None:
        meant = did_you_mean(given.name, [*_ROWS, *_BY_OLD_NAME])
        # A name that is like none of Celery's is one of the project's own, such as HOST.
        draft.remark(
            given.subject, f"is no setting of Celery's, and has no effect.{meant}", bool(meant)
        )
    elif given.value is None and given.name not in _MAY_BE_NONE:
        draft.remark(given.subject, "is not set, which changes nothing. Leave it out.")
    elif row.fate is Fate.REFUSED:
        raise ConfigError(f"{given.subject} cannot be used here: {row.explanation}")
    elif _is_overridden(given, broker, backend):
        draft.remark(given.subject, "is not used: another URL is in force. Leave it out.")
    elif row.translate is None:
        is_loss = row.fate is Fate.LOST and bool(given.value)
        draft.remark(given.subject, f"has no effect here: {row.explanation}", is_loss)
    elif sentence := _sentence(row.translate, draft, given):
        draft.remark(given.subject, sentence)


def _sentence(translate: Translate, draft: Draft, given: Given) -> str:
    try:
        return translate(draft, given)
    except ValueError as error:
        raise ConfigError(f"{given.subject} {error}{_but_it_is(given)}.") from None


def _is_overridden(given: Given, broker: str, backend: str) -> bool:
    in_force = {"broker_url": broker, "broker_host": broker, "result_backend": backend}
    url = in_force.get(given.name, "")
    return bool(url) and url != given.value


def _but_it_is(given: Given) -> str:
    """Return the value as the end of a sentence, if it is short and can be no secret."""
    secret = any(word in given.name for word in (*SECRET_ARGUMENTS, "url", "backend"))
    plain = isinstance(given.value, str | int | float | timedelta)
    return f", but it is {given.value!r}" if plain and not secret else ""
