"""Where the broker and the backend are, from all settings that say so together."""

from collections.abc import Mapping
from typing import Any

from dagster_celery._translate.connection_options import Server, server_of
from dagster_celery._translate.draft import Draft, Given
from dagster_celery._translate.rows import Remark
from dagster_celery._translate.urls import (
    Sentinel,
    completed,
    query_of,
    secured,
    translate_backend,
    translate_broker,
)
from dagster_celery._translate.values import whole_number
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact, scheme_of

#: How Celery names a database as result backend where the file is in ``database_url``.
_A_DATABASE = ("db", "database")

#: What the URL of a Redis is completed from, where the backend is one: Celery's settings.
_REDIS_PARTS = {"user": "redis_username", "password": "redis_password", "port": "redis_port"}
_BROKER_PARTS = {"user": "broker_user", "password": "broker_password", "port": "broker_port"}


def place_broker(draft: Draft, url: str) -> None:
    """Put the engine's URL of the broker into the settings of a draft, where one is known.

    Args:
        draft: whose ``given`` has the settings.
        url: the URL in force, in Celery's words or the engine's; where it is empty, the settings
            say it.

    Raises:
        ConfigError: the URL cannot be read or is not served, or two of them contradict each other.
    """
    found = _only_one(draft, url or _broker_url(draft))
    if not found:
        return
    found = completed(found, path=_path(draft, "broker_vhost"), **_parts(draft, _BROKER_PARTS))
    engine_url, remarks = translate_broker(found, _sentinel(draft, "broker_transport_options"))
    _needs_master(draft, "broker", engine_url, "broker_transport_options")
    secure = draft.value("broker_use_ssl")
    # On Redis, kombu knows what to do with a mapping only.
    if secure and (isinstance(secure, Mapping) or server_of(engine_url) is Server.RABBITMQ):
        engine_url = secured(engine_url)
    draft.settings["broker"] = engine_url
    draft.remarks += remarks
    if _trusts_anyone(draft, engine_url):
        draft.add_options("broker_options", {"ssl_cert_reqs": "none"})
        draft.remarks.append(Remark("broker", _TRUSTS_ANYONE))


def place_backend(draft: Draft, url: str) -> None:
    """Put the engine's URL of the backend into the settings of a draft, where one is known.

    Args:
        draft: whose ``given`` has the settings.
        url: as for :func:`place_broker`.

    Raises:
        ConfigError: the URL cannot be read, or Celery does not know it either.
    """
    found = url or _backend_url(draft)
    if not found:
        return
    if scheme_of(found) in ("redis", "rediss"):
        found = completed(found, **_parts(draft, _REDIS_PARTS))
    options = "result_backend_transport_options"
    engine_url, remarks = translate_backend(found, _sentinel(draft, options))
    _needs_master(draft, "backend", engine_url, options)
    if isinstance(draft.value("redis_backend_use_ssl"), Mapping):
        engine_url = secured(engine_url)
    draft.settings["backend"] = engine_url
    draft.remarks += remarks


def share_options(draft: Draft) -> None:
    """Give the backend's connection the broker's options too, where both are on one server.

    The engine does so itself while the backend has no options of its own.
    """
    own = draft.settings.get("backend_options")
    if own and draft.settings.get("backend") == draft.settings.get("broker"):
        draft.settings["backend_options"] = {**draft.settings.get("broker_options", {}), **own}


_TRUSTS_ANYONE = (
    'A broker with "rediss://" and nothing more trusts any certificate, as in Celery. To have it '
    'checked, write "?ssl_cert_reqs=required" behind its URL; to keep it so without this warning, '
    '"?ssl_cert_reqs=none".'
)


def _trusts_anyone(draft: Draft, engine_url: str) -> bool:
    """Whether nothing says how to check the certificate; then kombu does not check it."""
    if not engine_url.startswith("rediss"):
        return False
    said = any(name.startswith("ssl_") for name in query_of(engine_url))
    return not said and not draft.value("broker_use_ssl")


def _broker_url(draft: Draft) -> str:
    value = draft.value("broker_url")
    if isinstance(value, list | tuple):
        value = ";".join(str(each) for each in value)
    if value is None and (host := draft.value("broker_host")) is not None:
        value = host
    url = str(value) if value is not None else ""
    transport = draft.value("broker_transport")
    return f"{transport}://{url}" if url and transport and "://" not in url else url


def _only_one(draft: Draft, url: str) -> str:
    """Return the URL to read from and to write to, which has to be the same one."""
    ends = [
        draft.given[name]
        for name in ("broker_read_url", "broker_write_url")
        if draft.value(name) is not None
    ]
    if not ends:
        return url
    different = {str(each.value) for each in ends} | ({url} if len(ends) == 1 and url else set())
    if len(different) > 1:
        raise ConfigError(
            f"{ends[0].subject} is another broker than the one to "
            f"{'write to' if ends[0].name == 'broker_read_url' else 'read from'}, which is not "
            "supported here. Name one broker, and leave broker_read_url and broker_write_url out."
        )
    return str(ends[0].value)


def _backend_url(draft: Draft) -> str:
    value = draft.value("result_backend")
    url = "" if value is None else str(value)
    if url in _A_DATABASE and draft.value("database_url") is not None:
        return f"db+{draft.value('database_url')}"
    if url in ("redis", "rediss"):
        host = draft.value("redis_host", "localhost")
        if "://" in str(host):
            return str(host)
        return f"{url}://{host}/{_number(draft, 'redis_db') or 0}"
    return url


def _parts(draft: Draft, names: Mapping[str, str]) -> dict[str, Any]:
    parts: dict[str, Any] = {
        part: _number(draft, name) if part == "port" else str(draft.value(name, ""))
        for part, name in names.items()
    }
    return parts


def _path(draft: Draft, name: str) -> str:
    path = str(draft.value(name, ""))
    # A virtual host of RabbitMQ may be a slash itself; the number of a database may follow one.
    return path.replace("/", "%2F") if path in ("/", "//") else path.removeprefix("/")


def _number(draft: Draft, name: str) -> int | None:
    value = draft.value(name)
    if value is None:
        return None
    try:
        return whole_number(value)
    except ValueError as error:
        raise ConfigError(f"{draft.given[name].subject} {error}, but it is {value!r}.") from None


def _sentinel(draft: Draft, name: str) -> Sentinel:
    options = draft.value(name, {})
    if not isinstance(options, Mapping):
        return Sentinel()
    own = options.get("sentinel_kwargs") or {}
    if not isinstance(own, Mapping):
        raise ConfigError(f"{draft.given[name].subject}.sentinel_kwargs must be a mapping.")
    texts = {key: value for key, value in own.items() if isinstance(value, str)}
    if left_out := sorted(set(own) - set(texts)):
        draft.remark(
            f"{draft.given[name].subject}.sentinel_kwargs",
            f"has a place here for texts only, such as a password: {', '.join(left_out)} of it "
            'has no effect. How long a sentinel may take is "connect_timeout" of taskiq_executor.',
        )
    return Sentinel(str(options.get("master_name") or ""), texts)


def _needs_master(draft: Draft, kind: str, engine_url: str, options: str) -> None:
    if "+sentinel" not in scheme_of(engine_url) or engine_url.partition("?")[0].count("/") > 2:
        return
    given: Given | None = draft.given.get(options)
    where = given.subject if given else options
    raise ConfigError(
        f'The {kind} "{redact(engine_url)}" needs the name of the master that its sentinels watch: '
        f"{where}.master_name, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB."
    )
