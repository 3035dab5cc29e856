"""The engine's options of a connection, for those of Celery's."""

from collections.abc import Mapping
from typing import Any

from dagster_celery._translate.connections.option_rows import TLS, TRANSPORT, Option
from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.rows import Fate, Remark, did_you_mean
from dagster_celery._translate.values import mapping, plain
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import SECRET_ARGUMENTS


def tls_options(
    given: Any, server: Server, subject: str, becomes: str
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Return the engine's options for a TLS mapping such as ``broker_use_ssl``.

    Args:
        given: ``true``, or a mapping with the names of either client library, with or without
            ``ssl_``.
        server: the kind of server.
        subject: the name of the setting in remarks and errors.
        becomes: ``broker_options`` or ``backend_options``.

    Returns:
        The options, and a remark on each that was given.

    Raises:
        ConfigError: a value cannot be used.
    """
    if given is True:
        return {}, ()
    if not isinstance(given, Mapping):
        raise ConfigError(f"{subject} must be true, false or a mapping of TLS options.")
    bare = {str(name).removeprefix("ssl_"): value for name, value in given.items()}
    return _options(bare, TLS, server, subject, becomes)


def transport_options(
    given: Any, server: Server, subject: str, becomes: str
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Return the engine's options for ``broker_transport_options``, or for those of the backend.

    Args:
        given: the mapping.
        server: the kind of server.
        subject: the name of the setting in remarks and errors.
        becomes: ``broker_options`` or ``backend_options``.

    Returns:
        The options, and a remark on each that was given.

    Raises:
        ConfigError: it is no mapping, a value cannot be used, or an option is refused.
    """
    try:
        return _options(mapping(given), TRANSPORT, server, subject, becomes)
    except ValueError as error:
        raise ConfigError(f"{subject} {error}.") from None


def written(options: Mapping[str, Any]) -> str:
    """Return options as YAML has them on one line, without secrets."""
    parts = []
    for name, value in options.items():
        secret = any(word in name.lower() for word in SECRET_ARGUMENTS) and "file" not in name
        parts.append(f"{name}: {'***' if secret else _as_yaml(value)}")
    return f"{{{', '.join(parts)}}}"


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain(value) if isinstance(value, float) else str(value)


def _options(
    given: Mapping[str, Any],
    rows: Mapping[str, Option],
    server: Server,
    subject: str,
    becomes: str,
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    options: dict[str, Any] = {}
    remarks = []
    for name, value in given.items():
        one = f"{subject}.{name}"
        row = rows.get(str(name))
        found = _option(one, row, value, server)
        options.update(found)
        sentence = (
            f'{one} is "{becomes}: {written(found)}" of taskiq_executor.'
            if found
            else _without_effect(one, str(name), row, rows, server)
        )
        remarks.append(Remark(one, sentence, _is_loss(str(name), row, rows)))
    return options, tuple(remarks)


def _option(subject: str, row: Option | None, value: Any, server: Server) -> dict[str, Any]:
    """Return what an option becomes on a server: one option of the engine's, or none.

    Raises:
        ConfigError: its value cannot be used, or it is refused.
    """
    if row is None or value is None:
        return {}
    if row.fate is Fate.REFUSED:
        raise ConfigError(f"{subject} cannot be used here: {row.explanation}")
    if server not in row.on:
        return {}
    name, read = row.on[server]
    try:
        found = read(value)
    except ValueError as error:
        raise ConfigError(f"{subject} {error}.") from None
    return {} if found is None else {name: found}


def _is_loss(name: str, row: Option | None, rows: Mapping[str, Option]) -> bool:
    """Whether something is not done that an option asks for: one without a row may be misspelt."""
    return bool(did_you_mean(name, rows)) if row is None else row.fate is Fate.LOST


def _without_effect(
    subject: str, name: str, row: Option | None, rows: Mapping[str, Option], server: Server
) -> str:
    """Return the sentences on an option that becomes no option of the engine's."""
    if row is None:
        return (
            f"{subject} has no effect here: nothing is known of it.{did_you_mean(name, rows)} "
            "Leave it out."
        )
    if row.fate in (Fate.NO_EFFECT, Fate.LOST):
        return f"{subject} has no effect here: {row.explanation}"
    if not row.on and row.part_on in (None, server):
        return f"{subject} is {row.explanation}"
    if server not in row.on:
        kind = (row.part_on or next(iter(row.on))).value
        return f"{subject} has no effect here: it is an option for {kind}. Leave it out."
    return f"{subject} has no effect here, with this value. {row.explanation}"
