"""Reads the URL of an SQS and its options: which region, whose queues, and how they are used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: How long a poll waits for a message, in seconds, unless an option sets it; no server allows more.
LONGEST_WAIT_SECONDS = 20

#: The options, with their meanings.
OPTIONS = {
    "region_name": "the region, if the URL has none",
    "endpoint_url": "the address of the server, if it is not that of AWS (LocalStack, ElasticMQ)",
    "queue_url": "the URL of the SQS queue to use for the default queue",
    "queue_urls": "the same for any queues: a URL for each, by name (`gpu`, or `gpu:runs`)",
    "create_queues": "whether queues that do not exist are created; true",
    "priorities": "false has messages of all priorities in one queue, in SQS's own order; true",
    "queue_attributes": "attributes of queues that are created, such as KmsMasterKeyId",
    "queue_tags": "tags of queues that are created",
    "wait_time_seconds": f"how long a poll waits for a message; {LONGEST_WAIT_SECONDS}",
    "aws_access_key_id": "the access key, if it is not found as AWS's own tools find it",
    "aws_secret_access_key": "its secret",
    "aws_session_token": "the token of temporary credentials",
    "verify": "false trusts any certificate; the path of a file, the authorities in it",
}

#: The attributes of queues that a user may set.
ATTRIBUTES: "tuple[QueueAttributeNameType, ...]" = (
    "DelaySeconds",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "Policy",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
)
#: Attributes that are not for a user to set, and why.
NOT_ATTRIBUTES = {
    "FifoQueue": "a FIFO queue delivers nothing more of a group while a message is being started",
    "RedrivePolicy": (
        "SQS would move messages that were only given back, since it counts them as delivered; "
        "what cannot be read is put into the queue PREFIX--rejected"
    ),
    "VisibilityTimeout": "that is the `lease`",
}

_REGION = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class Target:
    """Which SQS, and which queues there."""

    #: ``None``: what AWS's own configuration says.
    region: str | None
    #: What the names of all queues begin with; ``None``: see :mod:`.names`.
    prefix: str | None
    #: ``None``: that of AWS.
    endpoint_url: str | None
    #: The URL of the default queue; ``None``: found by its name.
    queue_url: str | None
    #: URLs of other queues, by queue or run queue.
    queue_urls: Mapping[str, str] = field(default_factory=dict)
    creates_queues: bool = True
    #: Whether each priority has a queue of its own.
    has_priorities: bool = True
    #: Attributes and tags of queues that are created.
    attributes: "Mapping[QueueAttributeNameType, str]" = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: int = LONGEST_WAIT_SECONDS
    #: Credentials; ``None`` if they are found as AWS's own tools find them.
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    #: As the client library takes it.
    verify: bool | str | None = None

    def urls(self, default_queue: str) -> dict[str, str]:
        """Return all URLs that are given, by queue or run queue.

        Args:
            default_queue: the queue that ``queue_url`` is for.
        """
        own = {default_queue: self.queue_url} if self.queue_url else {}
        return {**self.queue_urls, **own}


def read_target(url: str, options: Mapping[str, Any]) -> Target:
    """Read a URL and options.

    Args:
        url: ``sqs://REGION/PREFIX``, where both may be left out.
        options: those of ``broker_options``.

    Raises:
        ConfigError: one of them cannot be used; the text names it, and quotes no secret.
    """
    try:
        region, prefix = _read_url(url)
        return _read_options(region, prefix, options)
    except ValueError as problem:
        raise ConfigError(f"Cannot use the broker {redact(url)}: {problem}.") from None


def _read_url(url: str) -> tuple[str | None, str | None]:
    if "@" in url:  # wherever: a password may have slashes
        raise ValueError(
            "it has a user or password. Credentials are found as AWS's own tools find them: in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the role of the machine. "
            "Write sqs://REGION"
        )
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError(f"options stand in `broker_options`. Known are {_listed()}")
    region = parts.netloc
    if region and not _REGION.fullmatch(region):
        raise ValueError(
            f"{region!r} is not the name of a region, such as eu-central-1. The address of a "
            "server that is not AWS is the option `endpoint_url`"
        )
    prefix = unquote(parts.path.strip("/"))
    if "/" in prefix:
        raise ValueError("what follows the region is a prefix of names, without a slash")
    return region or None, prefix or None


def _read_options(region: str | None, prefix: str | None, options: Mapping[str, Any]) -> Target:
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"the option {name!r} is unknown. Known are {_listed()}")
    given = _text(options, "region_name")
    if region and given and region != given:
        raise ValueError(f"its region is {region}, but the option `region_name` is {given!r}")
    urls = options.get("queue_urls") or {}
    if not isinstance(urls, Mapping):
        raise ValueError(  # noqa: TRY004 - all that is wrong with an option is one kind of error
            f"the option `queue_urls` must be a mapping of names, not {urls!r}"
        )
    access_key = _secret(options, "aws_access_key_id")
    secret_key = _secret(options, "aws_secret_access_key")
    if (access_key is None) != (secret_key is None):
        raise ValueError(
            "the options aws_access_key_id and aws_secret_access_key are needed together"
        )
    return Target(
        region=region or given,
        prefix=prefix,
        endpoint_url=_address("endpoint_url", options.get("endpoint_url")),
        queue_url=_queue_address("queue_url", options.get("queue_url")),
        queue_urls={
            str(queue): _queue_address(f"queue_urls[{queue}]", each) or ""
            for queue, each in urls.items()
        },
        creates_queues=_flag(options, "create_queues"),
        has_priorities=_flag(options, "priorities"),
        attributes=_attributes(options),
        tags=_texts(options, "queue_tags"),
        access_key=access_key,
        secret_key=secret_key,
        session_token=_secret(options, "aws_session_token"),
        wait_seconds=_wait(options.get("wait_time_seconds", LONGEST_WAIT_SECONDS)),
        verify=_verify(options.get("verify")),
    )


def _listed() -> str:
    return ", ".join(OPTIONS)


def _text(options: Mapping[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the option `{name}` must be a text, but it is {value!r}")
    return value or None


def _texts(options: Mapping[str, Any], name: str) -> dict[str, str]:
    value = options.get(name) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"the option `{name}` must be a mapping")  # noqa: TRY004 - as above
    return {str(key): str(each) for key, each in value.items()}


def _attributes(options: Mapping[str, Any]) -> "dict[QueueAttributeNameType, str]":
    given = _texts(options, "queue_attributes")
    for name in given:
        if name not in ATTRIBUTES:
            why = NOT_ATTRIBUTES.get(name, f"a standard queue has {', '.join(ATTRIBUTES)}")
            raise ValueError(f"the option `queue_attributes` may not have {name}: {why}")
    return {name: given[name] for name in ATTRIBUTES if name in given}


def _secret(options: Mapping[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the option `{name}` must be a text")
    return value or None


def _address(name: str, value: object) -> str | None:
    """Return the URL that an option has; what is no URL is refused."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        shown = redact(str(value))
        raise ValueError(f"the option `{name}` must be a URL (https://...), but it is {shown!r}")
    if "@" in value:
        raise ValueError(f"the option `{name}` has a user or password, which SQS does not use")
    return value


def _queue_address(name: str, value: object) -> str | None:
    url = _address(name, value)
    if url is not None and url.endswith(".fifo"):
        raise ValueError(
            f"the option `{name}` is a FIFO queue, which delivers nothing more of a group while a "
            "message of it is being started. Create a standard queue"
        )
    return url


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, True)
    if not isinstance(value, bool):
        raise ValueError(  # noqa: TRY004 - as above
            f"the option `{name}` must be true or false, but it is {value!r}"
        )
    return value


def _wait(value: object) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 1 <= int(str(value)) <= LONGEST_WAIT_SECONDS:
        raise ValueError(
            f"the option `wait_time_seconds` must be an integer from 1 to {LONGEST_WAIT_SECONDS}, "
            f"but it is {value!r}. Each poll is a request that is paid for, also one that finds "
            "nothing"
        )
    return int(str(value))


def _verify(value: object) -> bool | str | None:
    if value is None or isinstance(value, bool | str):
        return value
    raise ValueError(f"the option `verify` must be true, false or a path, but it is {value!r}")
