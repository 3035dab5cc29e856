"""URLs of SQS, with what Celery has in transport options beside them."""

import re
import string
from typing import Any
from urllib.parse import SplitResult, quote, unquote

from dagster_celery._translate.urls.parts import first_of, split
from dagster_celery._translate.urls.scheme import Beside, Found, SqsOptions
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.sqs_names import REGION, SQS_SCHEME, region_of_queue
from dagster_taskiq.settings.urls import redact

#: What kombu makes of punctuation in the name of a queue.
_PUNCTUATION = {ord(each): "_" for each in string.punctuation if each not in "-_."} | {
    ord("."): "-"
}

#: Why a FIFO queue is refused.
NO_FIFO = (
    "is a FIFO queue, which hands out nothing more of a group while a message of it is being "
    "started. Create a standard queue, and name that"
)

_BACKOFF = (
    '"backoff_policy" and "backoff_tasks" of predefined_queues are left out: a task that is to be '
    "tried again is sent with a delay of its own (`countdown` of its `retry`)."
)


def sqs(text: str, beside: Beside) -> Found:
    """Return the engine's URL of SQS; a URL that is the engine's already is returned as it is.

    Raises:
        ConfigError: it cannot be read; or the options beside it contradict it, or one another.
    """
    parts, notes = _split(text)
    options = beside.sqs
    if _is_engines(parts):
        if options.region and options.region != parts.netloc:
            raise ConfigError(
                f'The region of "{text}" is {parts.netloc}, but that of the transport options is '
                f"{options.region}. Write one of them."
            )
        return Found(text)
    path = parts.path.strip("/")
    if path:
        notes = (*notes, "The path of its URL has no effect, as in Celery.")
    if any({"backoff_policy", "backoff_tasks"} & each.keys() for each in _queues(options).values()):
        notes = (*notes, _BACKOFF)
    prefix = f"/{quote(_prefix(options.name_prefix), safe='')}" if options.name_prefix else ""
    return Found(f"{SQS_SCHEME}://{_region(parts, options)}{prefix}", notes)


def sqs_options(text: str, beside: Beside) -> dict[str, Any]:
    """Return the engine's options for what a URL of SQS and the options beside it have.

    Raises:
        ConfigError: as :func:`sqs`; or a queue is a FIFO queue, or queues have different
            credentials.
    """
    parts, _ = _split(text)
    queues = _queues(beside.sqs)
    found: dict[str, Any] = {}
    if not _is_engines(parts) and (address := parts.netloc.rpartition("@")[2]):
        found["endpoint_url"] = f"{'https' if beside.sqs.is_secure else 'http'}://{address}"
    pairs = {_credentials(parts, each) for each in queues.values()} or {_credentials(parts, {})}
    if len(pairs) > 1:
        raise ConfigError(
            "The queues of predefined_queues have different credentials, and one worker has one. "
            "Give one user or role access to all of them, and leave access_key_id and "
            "secret_access_key out."
        )
    (key, secret), *_ = pairs
    if bool(key) != bool(secret):
        raise ConfigError(
            f'"{redact(text)}" has one of access key and secret only. Write '
            "sqs://KEY:SECRET@, or sqs:// to have AWS's own configuration used."
        )
    if key:
        found |= {"aws_access_key_id": key, "aws_secret_access_key": secret}
    if queues:
        # Celery has no priorities on SQS, and needs one queue for each that is defined.
        found |= {"queue_urls": {name: str(each["url"]) for name, each in queues.items()}}
        found["priorities"] = False
    return found


def _split(text: str) -> tuple[SplitResult, tuple[str, ...]]:
    url, notes = first_of(text)
    return split(url, redact(text)), notes


def _is_engines(parts: SplitResult) -> bool:
    """Whether a URL has a region where Celery's have a host."""
    return re.fullmatch(REGION, parts.netloc) is not None


def _queues(options: SqsOptions) -> dict[str, dict[str, Any]]:
    """Return the queues that are defined, each with its URL.

    Raises:
        ConfigError: one has none, or is a FIFO queue.
    """
    queues = {
        str(name).removeprefix(options.name_prefix): dict(each)
        for name, each in options.predefined.items()
    }
    for name, each in queues.items():
        if not isinstance(each.get("url"), str) or not each["url"].strip():
            raise ConfigError(
                f'"{name}" of predefined_queues needs the URL of its queue, as "url".'
            )
        if each["url"].endswith(".fifo") or name.endswith(".fifo"):
            raise ConfigError(f'"{name}" of predefined_queues {NO_FIFO}.')
    return queues


def _region(parts: SplitResult, options: SqsOptions) -> str:
    """Return the region; nothing to have AWS's own configuration asked.

    Raises:
        ConfigError: there are several.
    """
    queues = _queues(options).values()
    named = [str(each.get("region") or options.region) for each in queues] or [options.region]
    found = {each for each in named if each} or {
        region
        for url in (f"//{parts.netloc}", *(str(each["url"]) for each in queues))
        if (region := region_of_queue(url))
    }
    if len(found) > 1:
        raise ConfigError(
            f"The queues of predefined_queues are in several regions ({', '.join(sorted(found))}), "
            "and a broker is in one. Create them in one region."
        )
    return next(iter(found), "")


def _prefix(name_prefix: str) -> str:
    """Return the prefix of all names for one of Celery's.

    The engine's own follows it: Celery's workers must not find the engine's messages in a queue of
    theirs, which they would delete.
    """
    plain = name_prefix.translate(_PUNCTUATION).strip("-")
    own = Settings.model_fields["prefix"].default
    return re.sub("-{2,}", "-", f"{plain}-{own}" if plain else own)


def _credentials(parts: SplitResult, queue: dict[str, Any]) -> tuple[str, str]:
    """Return access key and secret of a queue: its own, else those of the URL."""
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    key = queue.get("access_key_id") or unquote(user)
    secret = queue.get("secret_access_key") or unquote(password)
    return str(key), str(secret)
