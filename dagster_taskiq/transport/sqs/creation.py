"""How a queue is created: with which attributes and tags, or by which command of the user.

:class:`~dagster_taskiq.transport.sqs.queues.Queues` calls this for a queue that does not exist.
"""

import json
import shlex
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from dagster_taskiq.transport.sqs.errors import EXISTS, NOT_ALLOWED, WRONG_SIZE, code_of, text_of
from dagster_taskiq.transport.sqs.url import Target

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: How long a queue keeps a message, in seconds: as long as SQS can.
RETENTION_SECONDS = 14 * 86400
#: The largest message that a queue may take: the limit of SQS, and what it was before 2025, which
#: is that of other servers.
MAX_SIZES = (1024 * 1024, 256 * 1024)


def create(
    client: "SQSClient", name: str, visibility: int, target: Target
) -> tuple[str | None, str]:
    """Create a queue, with the largest messages that the server allows.

    Args:
        client: of the library; this is a call that takes a while.
        name: that of the queue.
        visibility: for how long it hides a message that was received, in seconds.
        target: the attributes and tags that the user wants.

    Returns:
        Its URL; or ``None`` and why not, if it exists with other attributes, or may not be created.
    """
    problem = ""
    for size in MAX_SIZES:
        try:
            answer = client.create_queue(
                QueueName=name,
                Attributes=_attributes(visibility, size, target),
                tags=dict(target.tags),
            )
        except ClientError as error:
            problem = text_of(error)
            if code_of(error) in (*EXISTS, *NOT_ALLOWED):
                break
            if code_of(error) not in WRONG_SIZE:
                raise
        else:
            return answer["QueueUrl"], ""
    return None, problem


def command(name: str, visibility: int, target: Target, region: str) -> str:
    """Return the command by which a user creates the same queue."""
    attributes = _attributes(visibility, MAX_SIZES[0], target)
    words = ["aws", "sqs", "create-queue", "--region", region]
    words += ["--queue-name", name, "--attributes", json.dumps(attributes)]
    words += ["--tags", json.dumps(dict(target.tags))] if target.tags else []
    return shlex.join(words)


def _attributes(visibility: int, size: int, target: Target) -> "dict[QueueAttributeNameType, str]":
    own: dict[QueueAttributeNameType, str] = {
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "MaximumMessageSize": str(size),
        "VisibilityTimeout": str(visibility),
    }
    return {**own, **target.attributes}
