"""Messages are JSON, whoever writes them: each process reads what another one has sent.

The parent of a worker reads messages of tasks whose module it has not loaded, and a Dagster step
is sent by a process that does not know the project's broker. So a serializer or formatter of a
project's own is used only if it writes and reads JSON.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from taskiq import BrokerMessage, TaskiqFormatter, TaskiqMessage
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.formatters.proxy_formatter import ProxyFormatter

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.labels import SENT_LABEL

#: What is written and read to see whether that is done in JSON.
_DATA: dict[str, Any] = {"text": "ü", "list": [1, 2.5, True, None], "more": {"text": "t"}}
_MESSAGE = TaskiqMessage(
    task_id="t", task_name="task", labels={"queue_name": "q"}, args=[_DATA], kwargs={"data": _DATA}
)

_SERVED = (
    "Use taskiq's JSONSerializer or ORJSONSerializer, or one of your own that writes and reads JSON"
)


def check_serializer(serializer: TaskiqSerializer) -> None:
    """Check that a serializer writes and reads JSON.

    Raises:
        ConfigError: it does not.
    """
    try:
        served = (
            json.loads(serializer.dumpb(_DATA)) == _DATA
            and serializer.loadb(json.dumps(_DATA).encode()) == _DATA
        )
    except Exception:  # whatever a serializer raises
        served = False
    if not served:
        raise ConfigError(
            f"{type(serializer).__name__} cannot be the serializer of this broker: it does not "
            f"write and read JSON, as messages are. {_SERVED}."
        )


def check_formatter(formatter: TaskiqFormatter) -> None:
    """Check that a formatter writes and reads taskiq's messages as JSON.

    Raises:
        ConfigError: it does not.
    """
    plain = JSONFormatter()
    try:
        sent = formatter.dumps(_MESSAGE)
        served = (
            plain.loads(sent.message) == _MESSAGE
            and (sent.task_id, sent.task_name) == (_MESSAGE.task_id, _MESSAGE.task_name)
            and formatter.loads(plain.dumps(_MESSAGE).message) == _MESSAGE
        )
    except Exception:  # whatever a formatter raises
        served = False
    if not served:
        raise ConfigError(
            f"{type(formatter).__name__} cannot be the formatter of this broker: messages are "
            "taskiq's own, in JSON, as its JSONFormatter and ProxyFormatter write them. To write "
            "other values into them, set a serializer."
        )


class ReadBody(bytes):
    """The body of a message that was read already: taskiq's receiver need not do that again."""

    message: TaskiqMessage

    @classmethod
    def of(cls, body: bytes, message: TaskiqMessage) -> "ReadBody":
        """Return the same body, with what was read from it."""
        read = cls(body)
        read.message = message
        return read


class SentFormatter(ProxyFormatter):
    """taskiq's default formatter, which adds to each message when it is sent.

    Every message passes it, also one that is sent again and has the time of before.
    """

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Return a message as it is sent (taskiq's own hook)."""
        labels = {**message.labels, SENT_LABEL: round(time.time(), 3)}
        return self.write(message.model_copy(update={"labels": labels}))

    def write(self, message: TaskiqMessage) -> BrokerMessage:
        """Return a message in the form of :meth:`dumps`, with the labels that it has."""
        return super().dumps(message)


class PlainFormatter(TaskiqFormatter):
    """Messages as taskiq writes them if nothing else is set, by Python's own JSON.

    taskiq's ``JSONFormatter`` refuses lone surrogates, which names of files may have in Python, and
    which its serializers write.
    """

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Return a message as it is sent (taskiq's own hook)."""
        return BrokerMessage(
            task_id=message.task_id,
            task_name=message.task_name,
            message=json.dumps(message.model_dump(mode="json")).encode(),
            labels=message.labels,
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        """Return a message that was sent (taskiq's own hook).

        Raises:
            ValueError: it is none.
        """
        if isinstance(message, ReadBody):
            return message.message
        return TaskiqMessage.model_validate(json.loads(message))


def with_labels(message: BrokerMessage, labels: Mapping[str, Any]) -> BrokerMessage:
    """Return a message that is written already with these labels."""
    plain = json.loads(message.message)
    plain["labels"] = dict(labels)
    return message.model_copy(update={"message": json.dumps(plain).encode(), "labels": labels})
