"""Amazon SQS for the tests: the environment's, or moto's server in a process of our own."""

import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.error import HTTPError

from compat_tests.checkout import ROOT
from compat_tests.servers import FreezableServer

#: An SQS that is already there, such as LocalStack's or ElasticMQ's, by its endpoint; queues are
#: made in it under prefixes of the tests. What lets time pass works only on our own.
SQS_ENV = "DAGSTER_TASKIQ_TEST_SQS_URL"

#: Whose queues they are; nothing here leaves this machine.
REGION = "eu-central-1"
#: Messages that are free, claimed, and not due: what follows ``COUNT`` in the name of an attribute.
KINDS = ("", "NotVisible", "Delayed")
COUNT = "ApproximateNumberOfMessages"
#: The path of the request that lets time pass on our own server.
PASS_TIME = "/pass-time"
#: What Amazon's own libraries find, unless the tests are run with others. Nobody checks them.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


class SqsServer(FreezableServer):
    """A server of the tests' own, which they may freeze and end.

    It keeps its queues in memory: one that is started again has none.
    """

    def __init__(self) -> None:
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port that it had before if there was one."""
        command = [sys.executable, "-m", "compat_tests.moto_server", str(self.port)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,  # it ends when this is closed
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests alone
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("moto's server does not come up: what it says stands above.")
        self.port = int(line)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@contextmanager
def own_sqs() -> Iterator[SqsServer]:
    """Start a server that only one test uses."""
    use_credentials()
    server = SqsServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def any_sqs() -> Iterator[str]:
    """Yield the endpoint of an SQS: the environment's, or our own."""
    if SQS_ENV in os.environ:
        use_credentials()
        yield os.environ[SQS_ENV]
        return
    with own_sqs() as server:
        yield server.url


def use_credentials() -> None:
    """Have this process, and all that it starts, find credentials without a look elsewhere."""
    if not any(name in os.environ for name in (*CREDENTIALS, "AWS_PROFILE")):
        os.environ.update(CREDENTIALS)
    # Where nothing else is found, a machine in the cloud would be asked, which takes seconds.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


@cache
def sqs_client(endpoint: str) -> Any:
    """Return a client of boto3's, which asks once and not again. It takes a while to make."""
    import boto3  # not for tests that need none: it takes a moment
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=50)
    return boto3.client("sqs", endpoint_url=endpoint, region_name=REGION, config=config)


def use_priority(endpoint: str, prefix: str, queue: str, priority: int) -> None:
    """Have a priority be in use, so that all workers that start from now on look for it at once.

    Each has a queue of SQS, and the first message that ever has one may be overtaken by others
    before workers know of it.
    """
    from dagster_taskiq.transport.sqs.names import Level, Names

    sqs_client(endpoint).create_queue(QueueName=Names(prefix).of(Level(queue, priority)))


def queues_on_sqs(endpoint: str, prefix: str) -> list[str]:
    """Return the addresses of the queues whose names begin so."""
    pages = sqs_client(endpoint).get_paginator("list_queues").paginate(QueueNamePrefix=prefix)
    return [url for page in pages for url in page.get("QueueUrls", [])]


def messages_on_sqs(endpoint: str, prefix: str) -> dict[str, int]:
    """Return how many messages each queue has that has any, whatever has become of them.

    Args:
        endpoint: the server.
        prefix: what the names of the queues begin with.
    """
    counts = {name: sum(each.values()) for name, each in _counts(endpoint, prefix).items()}
    return {name: count for name, count in counts.items() if count}


def queue_counts(endpoint: str, prefix: str) -> Counter[str]:
    """Return how many messages all queues have of each kind of ``KINDS``."""
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    for each in _counts(endpoint, prefix).values():
        found.update(each)
    return found


def _counts(endpoint: str, prefix: str) -> dict[str, dict[str, int]]:
    """Return the counts of each queue, by its name and the kind of messages."""
    found = {}
    client = sqs_client(endpoint)
    names = [f"{COUNT}{kind}" for kind in KINDS]
    for url in queues_on_sqs(endpoint, prefix):
        told = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        counts = {kind: int(told[f"{COUNT}{kind}"]) for kind in KINDS}
        found[url.rpartition("/")[2]] = counts
    return found


def forget_on_sqs(endpoint: str, prefix: str) -> None:
    """Delete what a test has left on a server that others use; our own forgets it all at its end.

    Args:
        endpoint: the server.
        prefix: what the names of the test's queues begin with.
    """
    if SQS_ENV in os.environ:
        for url in queues_on_sqs(endpoint, prefix):
            sqs_client(endpoint).delete_queue(QueueUrl=url)


def pass_time(endpoint: str, prefix: str, seconds: float) -> None:
    """Make the messages of all queues whose names begin so as old as they will be in a while.

    Raises:
        RuntimeError: the server is none of ours.
    """
    query = urllib.parse.urlencode({"prefix": prefix, "seconds": seconds})
    request = urllib.request.Request(f"{endpoint}{PASS_TIME}?{query}", method="POST")
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except HTTPError as error:
        raise RuntimeError(
            f"Time does not pass faster on {endpoint} ({error}). Unset {SQS_ENV}: the tests start "
            "a server that can do that."
        ) from error
