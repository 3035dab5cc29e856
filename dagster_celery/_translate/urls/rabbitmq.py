"""URLs of RabbitMQ."""

from dagster_celery._translate.urls.parts import (
    TLS_PREFIX,
    Arguments,
    argument,
    arguments_of,
    built,
    first_of,
    secured,
    split,
)
from dagster_celery._translate.urls.scheme import Beside, Found
from dagster_celery._translate.values import rabbitmq_verification, seconds
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.registry import BROKERS as ENGINE_BROKERS


def _milliseconds(value: str) -> str:
    return str(int((seconds(value) or 0) * 1000))


def _login(value: str) -> str:
    return "external" if value.upper() == "EXTERNAL" else "plain"


#: The arguments that kombu takes in an AMQP URL: the engine's name, and what reads the value.
ARGUMENTS: Arguments = {
    "heartbeat": ("heartbeat", str),
    "connect_timeout": ("connection_timeout", _milliseconds),
    "login_method": ("auth", _login),
    "ssl_ca_certs": ("cafile", str),
    "ssl_certfile": ("certfile", str),
    "ssl_keyfile": ("keyfile", str),
    "ssl_cert_reqs": ("verify", rabbitmq_verification),
    "ssl_server_hostname": ("server_name_indication", str),
}


def rabbitmq(text: str, _: Beside) -> Found:
    """Return the engine's URL of a RabbitMQ.

    Raises:
        ConfigError: it cannot be read, or an argument has a value that cannot be used.
    """
    url, notes = first_of(text)
    parts = split(url, redact(text))
    given = arguments_of(parts)
    wanted = [argument(redact(text), name, value, ARGUMENTS) for name, value in given]
    scheme = parts.scheme if parts.scheme in ENGINE_BROKERS.entries else "amqp"
    # Arguments that stay as they are keep their encoding.
    found = built(scheme, parts, parts.path, parts.query if wanted == given else wanted)
    has_tls = any(name.startswith(TLS_PREFIX) for name, _ in given)
    return Found(secured(found) if has_tls else found, notes)
