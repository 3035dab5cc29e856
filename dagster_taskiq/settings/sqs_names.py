"""Names for a queue of SQS that stand beside the settings: its URL, its region, its endpoint.

They are another way to write ``broker: sqs://REGION`` with ``broker_options``, and become that
before there are any settings: nothing else knows them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BROKER_ENV, read_variable
from dagster_taskiq.settings.urls import redact, scheme_of

#: The scheme of a broker that is SQS.
SQS_SCHEME = "sqs"

#: The variables that are read if the broker is SQS and the configuration has none of these.
QUEUE_URL_ENV = "DAGSTER_TASKIQ_SQS_QUEUE_URL"
ENDPOINT_URL_ENV = "DAGSTER_TASKIQ_SQS_ENDPOINT_URL"

#: The name of a region, as a pattern.
REGION = r"[a-z]{2,}(?:-[a-z]+)+-\d+"

#: The region in the name of a host of SQS: ``sqs.us-east-1.amazonaws.com`` and its like, also
#: behind an endpoint of a VPC, and the older ``us-east-1.queue.amazonaws.com``.
_HOSTS = (
    re.compile(rf"(?:^|\.)sqs(?:-fips)?\.(?P<region>{REGION})\."),
    re.compile(rf"^(?P<region>{REGION})\.queue\."),
)


@dataclass(frozen=True)
class SqsName:
    """One of the names, as a field of the configuration."""

    name: str
    #: The default in words.
    default: str
    description: str


NAMES: Mapping[str, SqsName] = {
    each.name: each
    for each in (
        SqsName(
            "queue_url",
            f"`${QUEUE_URL_ENV}`",
            "SQS: the URL of a queue that is used as it is, for tasks without a queue tag. Without "
            "a `broker`, the broker is then SQS. The same as `queue_url` of `broker_options`.",
        ),
        SqsName(
            "region_name",
            "that of `queue_url`, else as AWS's own tools find it, such as `$AWS_DEFAULT_REGION`",
            "SQS: the region. The same as REGION of `sqs://REGION`.",
        ),
        SqsName(
            "endpoint_url",
            f"`${ENDPOINT_URL_ENV}`, else that of AWS",
            "SQS: the address of its API, such as `http://localhost:4566` of LocalStack. The same "
            "as `endpoint_url` of `broker_options`.",
        ),
        SqsName("default_queue", "that of `queue`", "The same as `queue`."),
    )
}

#: The names that are options of the broker, and their variables.
_OPTIONS = {"queue_url": QUEUE_URL_ENV, "endpoint_url": ENDPOINT_URL_ENV}


def translated(plain: Mapping[str, Any], of_fleet: bool, default_queue: str) -> dict[str, Any]:
    """Return arguments of ``Settings`` in place of those that may have the names beside them.

    A broker that is named by the configuration, or by the worker in whose process this is, counts
    before ``queue_url``'s variable, and so does :data:`~dagster_taskiq.settings.env.BROKER_ENV`.
    Both are read here, if they count.

    Args:
        plain: settings and names that are given, with no variables left in them.
        of_fleet: whether the broker in it is that of the worker in whose process this is, whose
            options are complete.
        default_queue: the default of the setting ``queue``.

    Raises:
        ConfigError: a name is given, and the broker is not SQS; or two of them contradict each
            other.
    """
    settings = {name: value for name, value in plain.items() if name not in NAMES}
    given = {name: _text(name, plain[name]) for name in NAMES if name in plain}
    queue = given.pop("default_queue", None)
    if queue is not None:
        if settings.get("queue", default_queue) not in (default_queue, queue):
            raise _contradiction("queue", settings["queue"], "default_queue", queue)
        settings["queue"] = queue
    is_configured = "broker" in settings or "queue_url" in given
    if not is_configured and (named := read_variable(BROKER_ENV)) is not None:
        settings["broker"] = named
    broker = settings.get("broker")
    variables: Mapping[str, str] = {}
    if not of_fleet and (not is_configured or "queue_url" in given or is_sqs(broker)):
        variables = _variables(given)
    if is_sqs(broker) or (broker is None and "queue_url" in {**given, **variables}):
        _merge(settings, given, variables)
    elif given:
        raise ConfigError(
            f'"{next(iter(given))}" is for SQS, but '
            f"{f'the broker is {redact(str(broker))}' if broker else 'no broker is named'}. "
            'Leave it out, or name SQS: "queue_url", or "broker" such as sqs://us-east-1.'
        )
    elif "queue_url" in variables:
        raise ConfigError(
            f"{BROKER_ENV} names the broker {redact(str(broker))}, and {QUEUE_URL_ENV} a queue of "
            "SQS. Unset the one that is not meant."
        )
    return settings


def _variables(given: Mapping[str, str]) -> Mapping[str, str]:
    """Return what the environment has in place of names that are not given."""
    found = {name: read_variable(each) for name, each in _OPTIONS.items() if name not in given}
    return {name: value for name, value in found.items() if value is not None}


def _merge(
    settings: dict[str, Any], given: Mapping[str, str], variables: Mapping[str, str]
) -> None:
    """Put the names into the URL of SQS and the broker's options.

    Args:
        settings: arguments of ``Settings``, which are changed.
        given: the names in the configuration.
        variables: those in the environment, which count where neither the configuration nor the
            options have one.

    Raises:
        ConfigError: two of them contradict each other.
    """
    options = dict(settings.get("broker_options") or {})
    for name in _OPTIONS:
        value = given.get(name)
        if value is not None and options.get(name, value) != value:
            raise _contradiction(f"broker_options: {name}", options[name], name, value)
        value = value or options.get(name) or variables.get(name)
        if value is not None:
            options[name] = value
    settings["broker"] = _with_region(
        settings.get("broker", f"{SQS_SCHEME}://"),
        given.get("region_name", ""),
        region_of_queue(str(options.get("queue_url"))),
    )
    if options:
        settings["broker_options"] = options


def is_sqs(url: object) -> bool:
    """Return whether a value is a URL of SQS; what is no text is refused elsewhere."""
    return isinstance(url, str) and scheme_of(url) == SQS_SCHEME


def region_of_queue(url: str) -> str:
    """Return the region in the URL of a queue; an empty text if its host names none."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    found = next((match for each in _HOSTS if (match := each.search(host))), None)
    return found["region"] if found else ""


def _with_region(broker: str, region_name: str, of_queue: str) -> str:
    """Return the broker's URL with the region, if it has none and one is known.

    Raises:
        ConfigError: two regions contradict each other.
    """
    scheme, slashes, rest = broker.partition("://")
    if not slashes or "@" in rest:
        return broker  # SQS itself refuses it, with what to write
    host, slash, path = rest.partition("/")
    host, mark, query = host.partition("?")
    sources = {"broker": host, "region_name": region_name, "queue_url": of_queue}
    known = {name: each for name, each in sources.items() if each}
    if len(set(known.values())) > 1:
        (first, region), (second, another), *_ = known.items()
        raise ConfigError(f'The region is {region} by "{first}", but {another} by "{second}".')
    region = next(iter(known.values()), "")
    return f"{scheme}{slashes}{region}{mark}{query}{slash}{path}"


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f'"{name}" must be a text that is not empty. Leave it out for its default.'
        )
    return value.strip()


def _contradiction(one: str, value: Any, other: str, another: Any) -> ConfigError:
    return ConfigError(
        f'"{one}" is {value!r}, but "{other}" is {another!r}. Write one of them alone.'
    )
