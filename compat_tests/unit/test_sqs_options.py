"""The options of SQS: which there are, what they are refused with, and what AWS has to allow."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.session import get_session

from compat_tests.checkout import ROOT
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport import sqs
from dagster_taskiq.transport.sqs.url import NOT_ATTRIBUTES, OPTIONS, Target, read_target

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/etl"


def test_every_option_has_its_place() -> None:
    options = {
        "region_name": "eu-west-1",
        "endpoint_url": "http://localhost:4566",
        "queue_url": QUEUE,
        "queue_urls": {"gpu:runs": QUEUE},
        "create_queues": False,
        "priorities": False,
        "queue_attributes": {"KmsMasterKeyId": "alias/aws/sqs", "DelaySeconds": 0},
        "queue_tags": {"team": "data"},
        "wait_time_seconds": 5,
        "aws_access_key_id": "AKIA",
        "aws_secret_access_key": "s3cr3t",
        "aws_session_token": "t0ken",
        "verify": False,
    }
    assert set(options) == set(OPTIONS)
    target = read_target("sqs:///mine", options)
    assert target == Target(
        region="eu-west-1",
        prefix="mine",
        endpoint_url="http://localhost:4566",
        queue_url=QUEUE,
        queue_urls={"gpu:runs": QUEUE},
        creates_queues=False,
        has_priorities=False,
        attributes={"KmsMasterKeyId": "alias/aws/sqs", "DelaySeconds": "0"},
        tags={"team": "data"},
        wait_seconds=5,
        access_key="AKIA",
        secret_key="s3cr3t",
        session_token="t0ken",
        verify=False,
    )
    assert not any(secret in repr(target) for secret in ("AKIA", "s3cr3t", "t0ken"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"aws_access_key_id": "AKIA"},
            "aws_access_key_id and aws_secret_access_key are needed together",
        ),
        (
            {"aws_secret_access_key": "s3cr3t"},
            "aws_access_key_id and aws_secret_access_key are needed together",
        ),
        (
            {"aws_access_key_id": "AKIA", "aws_secret_access_key": ["s3cr3t"]},
            "`aws_secret_access_key` must be a text",
        ),
        ({"priorities": "no"}, "`priorities` must be true or false"),
        ({"queue_tags": ["team"]}, "`queue_tags` must be a mapping"),
        *(
            ({"queue_attributes": {name: "1"}}, f"may not have {name}: {reason}")
            for name, reason in NOT_ATTRIBUTES.items()
        ),
        (
            {"queue_attributes": {"KmsMasterKey": "alias/aws/sqs"}},
            "may not have KmsMasterKey: a standard queue has DelaySeconds, ",
        ),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_by_name(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_target("sqs://eu-west-1", options)
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_the_documented_policy_allows_what_the_broker_asks_for_and_no_more() -> None:
    operations = {
        xform_name(each): each for each in get_session().get_service_model("sqs").operation_names
    }
    source = "".join(path.read_text() for path in Path(sqs.__file__).parent.glob("*.py"))
    # A method of the client's, or its name as the argument for a paginator.
    used = {
        operations[name]
        for name in re.findall(r'(?:\.|")([a-z_]+)[("]', source)
        if name in operations
    }
    page = (ROOT / "docs" / "how-to" / "sqs.md").read_text()
    (policy,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    statements = json.loads(policy)["Statement"]
    allowed = {
        action
        for each in statements
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    # The action of a batch is that of a single one.
    assert allowed == {f"sqs:{name.removesuffix('Batch')}" for name in used}
