"""The values of Celery's settings and options.

Each function takes a value from YAML, Python or the environment, and returns it in the type that
the engine takes. It raises ``ValueError`` with the rest of a sentence that begins with the name of
the setting, such as ``must be a whole number``.
"""

import math
import ssl
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

#: How long a read of the engine may wait for Redis to answer, in seconds. A socket's timeout has to
#: be longer.
READ_SECONDS = 5.0

#: The longest that a result is kept, in seconds: 49 days, the longest expiry of RabbitMQ.
LONGEST_TTL_SECONDS = 49 * 86400.0

_TRUE = ("true", "yes", "on", "1", "y", "t")
_FALSE = ("false", "no", "off", "0", "n", "f", "")

#: How a server's certificate is checked, by all names that Celery and kombu have for it.
_VERIFICATIONS = {
    "none": "none",
    "optional": "optional",
    "required": "required",
    "cert_none": "none",
    "cert_optional": "optional",
    "cert_required": "required",
    "0": "none",
    "1": "optional",
    "2": "required",
}


def anything(value: Any) -> Any:
    """Return the value as it is."""
    return value


def text(value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def yes_or_no(value: Any) -> bool:
    """Return a truth value, which may be written as text."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if isinstance(value, str | int) and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    raise ValueError("must be true or false")


def whole_number(value: Any) -> int:
    """Return an integer, which may be written as text."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return int(value) if isinstance(value, int) else int(number)


def count(value: Any) -> int | None:
    """Return a positive integer; ``None`` for 0, by which Celery means "as by default"."""
    try:
        number = whole_number(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError("must be a whole number, 0 or more")
    return number or None


def seconds(value: Any) -> float | None:
    """Return a duration in seconds; ``None`` for 0, by which Celery means "no limit"."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        number = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return number or None


def bigger_than_a_read(value: Any) -> float | None:
    """Return the seconds of a socket's timeout; ``None`` if they would cut a read short."""
    number = seconds(value)
    return number if number and number > READ_SECONDS else None


def names(value: Any) -> tuple[str, ...]:
    """Return names, given as a list, a comma list, or the keys of a mapping.

    Objects that have a ``name``, such as kombu's ``Queue``, count as that.
    """
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Iterable):
        raise ValueError("must be a list of names")  # noqa: TRY004 - the one error of all here
    found = [each.strip() if isinstance(each, str) else _name_of(each) for each in value]
    return tuple(dict.fromkeys(each for each in found if each))


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as a plain one."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping")  # noqa: TRY004 - the one error of all here
    return dict(value)


def verification(value: Any) -> str:
    """Return how a server's certificate is checked: ``none``, ``optional`` or ``required``.

    Celery and kombu take the constants of the ``ssl`` module, their numbers and their names.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "required" if value else "none"
    if isinstance(value, Enum):
        value = value.value
    try:
        return _VERIFICATIONS[str(value).strip().lower()]
    except KeyError:
        raise ValueError("must be one of CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE") from None


def rabbitmq_verification(value: Any) -> str:
    """Return the same by the names of RabbitMQ's client: ``verify_none`` or ``verify_peer``."""
    return "verify_none" if verification(value) == "none" else "verify_peer"


def login(value: Any) -> str:
    """Return the login method for RabbitMQ: ``external`` (by certificate), or ``plain``."""
    return "external" if text(value).upper() == "EXTERNAL" else "plain"


def tls_version(value: Any) -> int:
    """Return the number of a TLS version, such as that of ``ssl.TLSVersion.TLSv1_2``."""
    try:
        return int(ssl.TLSVersion[value] if isinstance(value, str) else ssl.TLSVersion(value))
    except (KeyError, ValueError):
        raise ValueError("must be a TLS version, such as TLSv1_2") from None


def kept_for(value: Any) -> float:
    """Return how long a result is kept, in seconds; 0 and ``None``, "for ever", are the longest."""
    found = None if value is None else seconds(value)
    return min(found or LONGEST_TTL_SECONDS, LONGEST_TTL_SECONDS)


def plain(number: float) -> str:
    """Return a number as text, without an exponent, and without a fraction of zero."""
    return str(int(number)) if float(number).is_integer() else str(number)


def _name_of(each: Any) -> str:
    name = each.get("name") if isinstance(each, Mapping) else getattr(each, "name", None)
    if not isinstance(name, str) or not name.strip():
        raise ValueError("must be a list of names")
    return name.strip()
