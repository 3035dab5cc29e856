"""taskiq's formatter for messages with arguments that JSON has no form for."""

from typing import Any

from taskiq import BrokerMessage, TaskiqMessage

from dagster_taskiq.transport.json_messages import SentFormatter
from dagster_taskiq.wire.labels import TYPED_LABEL, written_labels
from dagster_taskiq.wire.typed_values import decode, encode


class TypedFormatter(SentFormatter):
    """Restores the arguments of such a message where its task is executed, and writes them again.

    So a middleware sees them as the task does, and can send the message again.
    """

    def write(self, message: TaskiqMessage) -> BrokerMessage:
        """Return a message as it is sent; what is written already stays."""
        if message.labels.get(TYPED_LABEL):
            written = {"args": encode(message.args), "kwargs": encode(message.kwargs)}
            message = message.model_copy(update=written)
        labels = written_labels(message.labels)
        return super().write(message.model_copy(update={"labels": labels}))

    def loads(self, message: bytes) -> TaskiqMessage:
        """Return a message as its task gets it (taskiq's own hook).

        Raises:
            ValueError: one of its arguments is no value of its type.
        """
        return with_typed_values(super().loads(message))


def with_typed_values(message: TaskiqMessage) -> TaskiqMessage:
    """Return a message with the arguments that JSON has no form for.

    Raises:
        ValueError: one of them is no value of its type.
        RecursionError: they are nested too deeply.
    """
    if not message.labels.get(TYPED_LABEL):
        return message
    restored = {"args": decode(message.args), "kwargs": decode(message.kwargs)}
    return message.model_copy(update=restored)


def plain_message(message: TaskiqMessage) -> dict[str, Any]:
    """Return a message whose labels have been read as plain data, for another process.

    Its arguments are plain data: it comes from JSON.
    """
    return {**vars(message), "labels": written_labels(message.labels)}
