"""What SQS is told of a message that was received, by the receipt of it: hide it on, or delete it.

A receipt is good until the lease of the message has passed; then SQS gives the message to others.
These are calls of the client library, to be made in a thread
(:meth:`~dagster_taskiq.transport.sqs.connection.SqsConnection.call`): ``claims`` and ``polls`` make
them for messages of their own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from dagster_taskiq.transport.sqs.errors import GONE, MISSING, code_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import ChangeMessageVisibilityBatchRequestEntryTypeDef

#: The most messages of one request.
BATCH = 10


def hide(client: "SQSClient", url: str, receipt: str, seconds: int) -> bool:
    """Hide a message from others for so many seconds from now on; with 0, show it at once.

    Returns:
        Whether the message is still ours; if not, nothing has happened.
    """
    try:
        client.change_message_visibility(
            QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=seconds
        )
    except ClientError as error:
        if not _is_lost(error):
            raise
        return False
    return True


def delete(client: "SQSClient", url: str, receipt: str) -> None:
    """Delete a message; nothing happens if it is not ours any more."""
    try:
        client.delete_message(QueueUrl=url, ReceiptHandle=receipt)
    except ClientError as error:
        if not _is_lost(error):
            raise


def show_all(client: "SQSClient", url: str, receipts: Sequence[str]) -> None:
    """Show messages to others at once; nothing happens to those that are not ours any more."""
    for first in range(0, len(receipts), BATCH):
        entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
            for number, receipt in enumerate(receipts[first : first + BATCH])
        ]
        client.change_message_visibility_batch(QueueUrl=url, Entries=entries)


def _is_lost(error: ClientError) -> bool:
    """Return whether the message or its queue is deleted, or the lease has passed."""
    return code_of(error) in (*GONE, *MISSING)
