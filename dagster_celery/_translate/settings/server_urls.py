"""The URLs of broker and backend, put together from all settings that have a part of them."""

from collections.abc import Mapping
from typing import Any

from dagster_celery._translate.connections.servers import Server, server_of
from dagster_celery._translate.rows import Remark
from dagster_celery._translate.settings.draft import Draft, Given
from dagster_celery._translate.urls.parts import completed, has_tls_arguments, secured
from dagster_celery._translate.urls.scheme import Beside, Sentinel, SqsOptions
from dagster_celery._translate.urls.sqs import sqs_options
from dagster_celery._translate.urls.translate import translate_backend, translate_broker
from dagster_celery._translate.values import whole_number, yes_or_no
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.sqs_names import is_sqs
from dagster_taskiq.settings.urls import redact, scheme_of

#: Celery's names of a database as result backend whose URL is in ``database_url``.
_A_DATABASE = ("db", "database")

#: The settings with the parts that a URL may lack: of a backend that is a Redis, and of a broker.
_REDIS_PARTS = {"user": "redis_username", "password": "redis_password", "port": "redis_port"}
_BROKER_PARTS = {"user": "broker_user", "password": "broker_password", "port": "broker_port"}


def set_broker(draft: Draft, url: str) -> None:
    """Set the engine's URL of the broker in a draft; do nothing if no URL is known.

    Args:
        draft: its ``given`` has Celery's settings.
        url: the URL in force, in Celery's form or the engine's; if it is empty, that of the
            settings is.

    Raises:
        ConfigError: the URL cannot be read or is not served, or two of them contradict each other.
    """
    found = _only_one(draft, url or _broker_url(draft))
    if not found:
        return
    found = completed(found, path=_path(draft, "broker_vhost"), **_parts(draft, _BROKER_PARTS))
    beside = Beside(_sentinel(draft, "broker_transport_options"), _sqs(draft))
    engine_url, remarks = translate_broker(found, beside)
    _needs_master(draft, "broker", engine_url, "broker_transport_options")
    secure = draft.value("broker_use_ssl")
    # On Redis, kombu ignores anything but a mapping.
    if secure and (isinstance(secure, Mapping) or server_of(engine_url) is Server.RABBITMQ):
        engine_url = secured(engine_url)
    draft.settings["broker"] = engine_url
    draft.remarks += remarks
    if is_sqs(engine_url):
        draft.add_options("broker_options", sqs_options(found, beside))
    if _skips_verification(draft, engine_url):
        draft.add_options("broker_options", {"ssl_cert_reqs": "none"})
        draft.remarks.append(Remark("broker", _SKIPS_VERIFICATION))


def set_backend(draft: Draft, url: str) -> None:
    """Set the engine's URL of the backend in a draft; do nothing if no URL is known.

    Args:
        draft: its ``given`` has Celery's settings.
        url: as for :func:`set_broker`.

    Raises:
        ConfigError: the URL cannot be read, or Celery does not know it either.
    """
    found = url or _backend_url(draft)
    if not found:
        return
    if scheme_of(found) in ("redis", "rediss"):
        found = completed(found, **_parts(draft, _REDIS_PARTS))
    options = "result_backend_transport_options"
    beside = Beside(_sentinel(draft, options), broker_keeps_state=draft.server is not Server.SQS)
    engine_url, remarks = translate_backend(found, beside)
    _needs_master(draft, "backend", engine_url, options)
    if isinstance(draft.value("redis_backend_use_ssl"), Mapping):
        engine_url = secured(engine_url)
    draft.settings["backend"] = engine_url
    draft.remarks += remarks


def share_options(draft: Draft) -> None:
    """Add the broker's options to those of the backend, if both are on one server.

    If the backend has no options of its own, the engine uses those of the broker.
    """
    own = draft.settings.get("backend_options")
    if own and draft.settings.get("backend") == draft.settings.get("broker"):
        draft.settings["backend_options"] = {**draft.settings.get("broker_options", {}), **own}


_SKIPS_VERIFICATION = (
    'A broker with "rediss://" and nothing more trusts any certificate, as in Celery. To have it '
    'checked, write "?ssl_cert_reqs=required" behind its URL; to keep it so without this warning, '
    '"?ssl_cert_reqs=none".'
)


def _skips_verification(draft: Draft, engine_url: str) -> bool:
    """Whether there is no setting for the check of the certificate: then kombu skips the check."""
    if not engine_url.startswith("rediss"):
        return False
    return not has_tls_arguments(engine_url) and not draft.value("broker_use_ssl")


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
    """Return the URL to read from and to write to.

    Raises:
        ConfigError: they are different ones.
    """
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
            f"may hold only texts here, such as a password: {', '.join(left_out)} of it "
            'has no effect. How long a sentinel may take is "connect_timeout" of taskiq_executor.',
        )
    return Sentinel(str(options.get("master_name") or ""), texts)


def _sqs(draft: Draft) -> SqsOptions:
    """Return what the transport options have of the URL of SQS.

    Raises:
        ConfigError: one of them is of the wrong type.
    """
    name = "broker_transport_options"
    options = draft.value(name, {})
    if not isinstance(options, Mapping):
        return SqsOptions()
    queues = options.get("predefined_queues") or {}
    if not isinstance(queues, Mapping) or not all(
        isinstance(each, Mapping) for each in queues.values()
    ):
        raise ConfigError(
            f"{draft.given[name].subject}.predefined_queues must be a mapping of queues to "
            "mappings, such as {dagster: {url: https://sqs...}}."
        )
    try:
        is_secure = yes_or_no(options.get("is_secure") or False)
    except ValueError as error:
        raise ConfigError(f"{draft.given[name].subject}.is_secure {error}.") from None
    return SqsOptions(
        region=str(options.get("region") or ""),
        name_prefix=str(options.get("queue_name_prefix") or ""),
        is_secure=is_secure,
        predefined=queues,
    )


def _needs_master(draft: Draft, kind: str, engine_url: str, options: str) -> None:
    if "+sentinel" not in scheme_of(engine_url) or engine_url.partition("?")[0].count("/") > 2:
        return
    given: Given | None = draft.given.get(options)
    subject = given.subject if given else options
    raise ConfigError(
        f'The {kind} "{redact(engine_url)}" needs the name of the master that its sentinels watch: '
        f"{subject}.master_name, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB."
    )
