"""Values that JSON has no form for, in arguments and results.

They are times, decimals, UUIDs, bytes, and the floats that are infinite or no number.

Each is written as ``{"__type__": "datetime", "__value__": "2030-01-01T12:00:00+00:00"}``, as kombu
writes it. What is read back is one of the types in this module, and nothing else: no name in a
message is looked up, imported or called.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

_TYPE, _VALUE = "__type__", "__value__"

#: Reads a value of each type, by its name, from a text; what is no text, it refuses.
_READERS: Mapping[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": lambda text: Decimal(str.strip(text)),
    "uuid": UUID,
    "bytes": str.encode,
    "float": lambda text: float(str.strip(text)),
    "base64": lambda text: base64.b64decode(text, validate=True),
}


def holds_typed(value: Any) -> bool:
    """Return whether there is a value of one of these types in a value, at any depth."""
    if isinstance(value, Mapping):
        return any(map(holds_typed, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_typed, value))
    return _written(value) is not None


def encode(value: Any) -> Any:
    """Return a value with all that JSON has no form for written as JSON; tuples become lists."""
    if isinstance(value, Mapping):
        return {key: encode(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    written = _written(value)
    return value if written is None else {_TYPE: written[0], _VALUE: written[1]}


def decode(value: Any) -> Any:
    """Return a value as it was before :func:`encode`; a type that is not known stays as written.

    Raises:
        ValueError: what is written is no value of its type.
    """
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TYPE)
    read = _READERS.get(kind) if isinstance(kind, str) and value.keys() == {_TYPE, _VALUE} else None
    if read is None:
        return {key: decode(each) for key, each in value.items()}
    text = value[_VALUE]
    if kind == "uuid" and isinstance(text, dict):
        text = text.get("hex")
    try:
        return read(text)
    except (ArithmeticError, AttributeError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"A value of the type {kind} cannot be read: {error}") from None


def _written(value: Any) -> tuple[str, Any] | None:
    """Return the name of a value's type, and the value as JSON; ``None`` for any other type."""
    if isinstance(value, datetime):  # which is a date, too
        return "datetime", value.isoformat()
    if isinstance(value, date):
        return "date", value.isoformat()
    if isinstance(value, time):
        return "time", value.isoformat()
    if isinstance(value, Decimal):
        return "decimal", str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "float", str(float(value))
    if isinstance(value, UUID):
        return "uuid", {"hex": value.hex}
    if isinstance(value, bytes):
        try:
            return "bytes", value.decode()
        except UnicodeDecodeError:
            return "base64", base64.b64encode(value).decode()
    return None
