"""A queue of SQS by the names that stand beside the settings: all become one URL with options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from dagster._config import process_config
from dagster._core.test_utils import instance_for_test

from dagster_taskiq.cli.options import settings_from
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.executor import TaskiqExecutor, taskiq_executor
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.settings.default_broker import warning_of_one_machine
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS, LAUNCHER_FIELDS
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, NAMES, QUEUE_URL_ENV
from dagster_taskiq.settings.yaml_file import read_settings

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/dagster-tasks"
LOCAL = "http://localhost:4566"
LOCAL_QUEUE = f"{LOCAL}/000000000000/dagster-tasks"
POSTGRESQL = "postgresql://dagster@db/dagster"

#: The configuration of an executor or launcher, as a whole.
EVERYTHING = {
    "queue_url": LOCAL_QUEUE,
    "region_name": "us-east-1",
    "endpoint_url": LOCAL,
    "default_queue": "etl",
}
NATIVE = Settings(
    broker="sqs://us-east-1",
    queue="etl",
    broker_options={"queue_url": LOCAL_QUEUE, "endpoint_url": LOCAL},
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (BROKER_ENV, BACKEND_ENV, QUEUE_URL_ENV, ENDPOINT_URL_ENV, "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)


# -- each place in which they can be written ---------------------------------------------------


def executor_of(config: Mapping[str, Any]) -> TaskiqExecutor:
    outcome = process_config(taskiq_executor.config_schema.config_type, config)
    assert outcome.success, outcome.errors
    return TaskiqExecutor.from_config(outcome.value or {})


def test_the_executor_reads_them_as_one_url_with_options() -> None:
    assert executor_of(EVERYTHING).settings == NATIVE


def test_the_run_launcher_reads_them_from_dagster_yaml_and_as_arguments() -> None:
    named = {"module": "dagster_taskiq", "class": "TaskiqRunLauncher", "config": EVERYTHING}
    with instance_for_test(overrides={"run_launcher": named}) as instance:
        assert launcher_of(instance).settings == NATIVE
    launcher = TaskiqRunLauncher(
        default_queue="etl", queue_url=LOCAL_QUEUE, region_name="us-east-1", endpoint_url=LOCAL
    )
    assert launcher.settings == NATIVE
    launcher = TaskiqRunLauncher(default_queue="etl", queue_url=QUEUE, region_name="eu-west-1")
    assert (launcher.settings.broker, launcher.settings.queue) == ("sqs://eu-west-1", "etl")
    assert launcher.settings.broker_options == {"queue_url": QUEUE}


def launcher_of(instance: DagsterInstance) -> TaskiqRunLauncher:
    launcher = instance.run_launcher
    assert isinstance(launcher, TaskiqRunLauncher)
    return launcher


def test_a_run_launcher_with_settings_takes_no_names_beside_them() -> None:
    with pytest.raises(ConfigError, match='"queue_url" is for a TaskiqRunLauncher without'):
        TaskiqRunLauncher(Settings(), queue_url=QUEUE)


def test_the_file_of_a_worker_has_them_bare_or_as_in_a_run_config(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    for document in (EVERYTHING, {"execution": {"config": EVERYTHING}}):
        path.write_text(yaml.safe_dump(document))
        assert read_settings(path) == NATIVE


def test_the_command_line_counts_before_the_file_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text(yaml.safe_dump({"endpoint_url": {"env": "AN_ENDPOINT"}}))
    monkeypatch.setenv("AN_ENDPOINT", LOCAL)
    settings = settings_from("sqs://us-east-1/mine", POSTGRESQL, path, None)
    assert (settings.broker, settings.backend) == ("sqs://us-east-1/mine", POSTGRESQL)
    assert settings.broker_options == {"endpoint_url": LOCAL}
    path.write_text(yaml.safe_dump({"queue_url": QUEUE}))
    with pytest.raises(ConfigError, match='"queue_url" is for SQS, but the broker is redis://h'):
        settings_from("redis://h", None, path, None)


def test_a_broker_of_the_command_line_has_the_endpoint_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENDPOINT_URL_ENV, LOCAL)
    settings = settings_from("sqs://us-east-1", POSTGRESQL, None, None)
    assert settings.broker_options == {"endpoint_url": LOCAL}
    # Another broker than SQS has no use for what the environment says of SQS.
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    assert settings_from("redis://h", None, None, None) == Settings(broker="redis://h")


# -- what they become --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (QUEUE, "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://sqs.ap-southeast-2.api.aws/1/q", "ap-southeast-2"),
        ("https://vpce-0a1b.sqs.us-east-1.vpce.amazonaws.com/1/q", "us-east-1"),
        ("https://us-west-2.queue.amazonaws.com/1/q", "us-west-2"),
        ("http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/q", "us-east-1"),
        (LOCAL_QUEUE, ""),
        ("http://[::1", ""),
    ],
)
def test_the_region_is_that_of_the_queue(url: str, region: str) -> None:
    assert Settings.from_dict({"queue_url": url}).broker == f"sqs://{region}"


@pytest.mark.parametrize(
    ("broker", "found"),
    [
        ("sqs://", "sqs://eu-west-1"),
        ("sqs:///mine", "sqs://eu-west-1/mine"),
        ("sqs://eu-west-1/mine", "sqs://eu-west-1/mine"),
        ("sqs:///mine?wait_time_seconds=1", "sqs://eu-west-1/mine?wait_time_seconds=1"),
        ("sqs://?wait_time_seconds=1", "sqs://eu-west-1?wait_time_seconds=1"),
        # What SQS refuses, it refuses as it was written.
        ("sqs://key:secret@", "sqs://key:secret@"),
        ("sqs:", "sqs:"),
    ],
)
def test_the_region_goes_into_a_url_that_has_none(broker: str, found: str) -> None:
    assert Settings.from_dict({"broker": broker, "region_name": "eu-west-1"}).broker == found
    assert Settings.from_dict({"broker": broker, "queue_url": QUEUE}).broker == found


def test_options_of_the_broker_are_kept_beside_them() -> None:
    given = {"queue_url": QUEUE, "broker_options": {"wait_time_seconds": 5, "queue_url": QUEUE}}
    found = Settings.from_dict(given)
    assert found.broker_options == {"wait_time_seconds": 5, "queue_url": QUEUE}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"broker": "redis://:s3cr3t@h", "queue_url": QUEUE}, "the broker is redis://:***@h."),
        ({"broker": "redis://h", "endpoint_url": LOCAL}, '"endpoint_url" is for SQS'),
        ({"region_name": "us-east-1"}, "no broker is named. Leave it out, or name SQS"),
        (
            {"queue_url": QUEUE, "region_name": "us-east-1"},
            'The region is us-east-1 by "region_name", but eu-west-1 by "queue_url".',
        ),
        (
            {"broker": "sqs://us-east-2", "region_name": "us-east-1"},
            'The region is us-east-2 by "broker", but us-east-1 by "region_name".',
        ),
        (
            {"queue_url": QUEUE, "broker_options": {"queue_url": LOCAL_QUEUE}},
            f"\"broker_options: queue_url\" is '{LOCAL_QUEUE}', but \"queue_url\" is '{QUEUE}'.",
        ),
        ({"queue": "one", "default_queue": "two"}, '"queue" is \'one\', but "default_queue" is'),
        ({"queue_url": " "}, '"queue_url" must be a text that is not empty.'),
        ({"queue_url": QUEUE, "endpoint_url": 4566}, '"endpoint_url" must be a text'),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_dict(given)
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_the_default_queue_is_the_queue_on_any_broker() -> None:
    given = {"broker": "redis://h", "default_queue": "etl"}
    assert Settings.from_dict(given) == Settings(broker="redis://h", queue="etl")


# -- the environment ---------------------------------------------------------------------------


def test_the_variables_alone_make_sqs_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, LOCAL_QUEUE)
    monkeypatch.setenv(ENDPOINT_URL_ENV, LOCAL)
    # The region is left to AWS's own way of finding it, which reads AWS_DEFAULT_REGION.
    expected = {"queue_url": LOCAL_QUEUE, "endpoint_url": LOCAL}
    assert Settings.from_dict({}) == Settings(broker="sqs://", broker_options=expected)
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    assert Settings.from_dict({}).broker == "sqs://eu-west-1"


def test_the_configuration_counts_before_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    assert Settings.from_dict({"broker": "redis://h"}) == Settings(broker="redis://h")
    found = Settings.from_dict({"queue_url": LOCAL_QUEUE, "region_name": "us-east-1"})
    assert (found.broker, found.broker_options["queue_url"]) == ("sqs://us-east-1", LOCAL_QUEUE)
    monkeypatch.setenv(BROKER_ENV, "redis://h")
    assert Settings.from_dict({"queue_url": QUEUE}).broker == "sqs://eu-west-1"


def test_a_broker_that_is_sqs_takes_from_the_variables_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    given = {"broker": "sqs:///mine", "broker_options": {"create_queues": False}}
    found = Settings.from_dict(given)
    assert found.broker == "sqs://eu-west-1/mine"
    assert found.broker_options == {"create_queues": False, "queue_url": QUEUE}
    monkeypatch.setenv(BROKER_ENV, "sqs:///mine")
    assert Settings.from_dict({"broker_options": {"create_queues": False}}) == found
    own = Settings.from_dict({"broker_options": {"queue_url": LOCAL_QUEUE}})
    assert own.broker_options == {"queue_url": LOCAL_QUEUE}


def test_two_brokers_in_the_environment_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKER_ENV, "redis://:s3cr3t@h")
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    with pytest.raises(ConfigError, match=f"{BROKER_ENV} names the broker redis://:\\*\\*\\*@h"):
        Settings.from_dict({})
    monkeypatch.delenv(QUEUE_URL_ENV)
    monkeypatch.setenv(ENDPOINT_URL_ENV, LOCAL)
    assert Settings.from_dict({}).broker_options == {}


@pytest.mark.parametrize("name", [QUEUE_URL_ENV, ENDPOINT_URL_ENV])
def test_a_variable_that_is_empty_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, " ")
    with pytest.raises(ConfigError, match=f"{name} is set, but empty"):
        Settings.from_dict({"broker": "sqs://us-east-1"})
    assert Settings.from_dict({"broker": "redis://h"}).broker == "redis://h"


def test_in_a_workers_process_its_own_queue_counts_before_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    monkeypatch.setenv(ENDPOINT_URL_ENV, LOCAL)
    own = Settings(broker="sqs://us-east-1", backend=POSTGRESQL)
    assert Settings.from_dict({}, own) == own
    assert Settings.from_dict({"region_name": "us-east-1"}, own) == own
    with pytest.raises(ConfigError, match='"region_name" is for SQS, but the broker is redis://h'):
        Settings.from_dict({"region_name": "us-east-1"}, Settings(broker="redis://h"))
    other = Settings.from_dict({"queue_url": LOCAL_QUEUE, "region_name": "us-east-1"}, own)
    assert other.backend is None


# -- the backend beside SQS --------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, "rpc://"])
def test_sqs_without_a_backend_says_what_to_set(backend: str | None, tmp_path: Path) -> None:
    settings = Settings(broker="sqs://us-east-1", backend=backend)
    with pytest.raises(ConfigError) as caught:
        settings.resolved(str(tmp_path))
    for words in (BACKEND_ENV, "`backend`", "dagster-storage:", "postgresql://", "redis://"):
        assert words in str(caught.value)


def test_the_postgresql_of_dagsters_storage_is_the_backend_beside_sqs(tmp_path: Path) -> None:
    storage = {"storage": {"postgres": {"postgres_url": POSTGRESQL}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(storage))
    options = {"endpoint_url": LOCAL}
    for backend in (None, "rpc://", "dagster-storage:"):
        settings = Settings(broker="sqs://us-east-1", backend=backend, broker_options=options)
        found = settings.resolved(str(tmp_path))
        assert (found.broker, found.backend_url) == ("sqs://us-east-1", POSTGRESQL)
        assert found.options_of_backend == {}
    named = settings.replace(backend="redis://h").resolved(str(tmp_path))
    assert named.backend_url == "redis://h"


@pytest.mark.parametrize("backend", ["sqs://us-east-1", "SQS://key:s3cr3t@", "memory://"])
def test_a_backend_that_keeps_no_state_is_refused_beside_sqs(backend: str, tmp_path: Path) -> None:
    storage = {"storage": {"postgres": {"postgres_url": POSTGRESQL}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(storage))
    settings = Settings(broker="sqs://us-east-1", backend=backend)
    with pytest.raises(ConfigError, match="cannot keep the state of tasks and workers") as caught:
        settings.resolved(str(tmp_path))
    assert f"Set `backend`, or the variable {BACKEND_ENV}, to postgresql://" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "backend", "warns"),
    [
        ("sqs://us-east-1", "embedded://", True),
        ("sqs://us-east-1", "sqlite:////srv/states.db", True),
        ("sqs://us-east-1", POSTGRESQL, False),
        ("sqs://us-east-1", "redis://h", False),
        ("embedded://", None, False),
    ],
)
def test_a_file_as_the_backend_beside_sqs_is_warned_of(
    broker: str, backend: str | None, warns: bool, tmp_path: Path
) -> None:
    settings = Settings(broker=broker, backend=backend).resolved(str(tmp_path))
    warning = warning_of_one_machine(settings.broker, settings.backend_url)
    assert (warning is not None) == warns
    if warning is not None:
        assert f"The backend {settings.backend_url} is a file on this machine" in warning
        assert f"Set `backend`, or the variable {BACKEND_ENV}" in warning


# -- what is shown -----------------------------------------------------------------------------


def test_each_name_has_a_description_where_dagster_shows_the_fields() -> None:
    for name, each in NAMES.items():
        for fields in (EXECUTOR_FIELDS, LAUNCHER_FIELDS):
            assert not fields[name].is_required
            assert str(fields[name].description).endswith(f" Default: {each.default}.")
