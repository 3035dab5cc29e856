"""Celery's configuration of SQS, held against what kombu's transport reads."""

import ast
import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Connection

from compat_tests.facade.test_translate_urls import MARK, passwords
from dagster_celery._configuration import configure
from dagster_celery._translate.connections.option_rows import TRANSPORT
from dagster_celery._translate.rows import Translation
from dagster_celery._translate.settings.translate import translate_settings
from dagster_celery._translate.urls.translate import translate_broker
from dagster_celery._upgrade.servers import celery_servers
from dagster_celery.make_app import make_app
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, QUEUE_URL_ENV

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/etl"
OTHER = "https://sqs.eu-west-1.amazonaws.com/123456789012/other"
SQS = {"region": "eu-west-1"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (BROKER_ENV, BACKEND_ENV, QUEUE_URL_ENV, ENDPOINT_URL_ENV, "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)


def translated(url: str, options: dict[str, Any] | None = None, **more: Any) -> Translation:
    return translate_settings({"broker_transport_options": options or {}, **more}, url)


def text_on(translation: Translation, name: str) -> str:
    subject = f"config_source.broker_transport_options.{name}"
    (found,) = [each.text for each in translation.remarks if each.subject == subject]
    return found


def test_every_option_that_kombu_reads_for_sqs_has_a_row() -> None:
    # Read, and not imported: it needs libraries that nothing else of the tests does.
    spec = importlib.util.find_spec("kombu.transport.SQS")
    assert spec is not None
    assert spec.origin is not None
    read = {
        node.args[0].value
        for node in ast.walk(ast.parse(Path(spec.origin).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and ast.unparse(node.func.value) == "self.transport_options"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"region", "predefined_queues", "visibility_timeout", "sts_role_arn"} < read
    assert read <= set(TRANSPORT)


# -- the URL -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["sqs", "SQS"])
@pytest.mark.parametrize(
    ("rest", "options", "broker", "broker_options"),
    [
        ("", {}, "sqs://", {}),
        ("", SQS, "sqs://eu-west-1", {}),
        (
            "AKIA:se%2Fcr%2Bet@",
            SQS,
            "sqs://eu-west-1",
            {"aws_access_key_id": "AKIA", "aws_secret_access_key": "se/cr+et"},
        ),
        (
            "localhost:4566",
            {**SQS, "is_secure": False},
            "sqs://eu-west-1",
            {"endpoint_url": "http://localhost:4566"},
        ),
        (
            "a:b@localstack:4566//",
            {"region": "us-east-1", "is_secure": True},
            "sqs://us-east-1",
            {
                "endpoint_url": "https://localstack:4566",
                "aws_access_key_id": "a",
                "aws_secret_access_key": "b",
            },
        ),
        (
            "sqs.us-west-2.amazonaws.com",
            {},
            "sqs://us-west-2",
            {"endpoint_url": "http://sqs.us-west-2.amazonaws.com"},
        ),
        ("", {**SQS, "queue_name_prefix": "myapp-"}, "sqs://eu-west-1/myapp-dagster-taskiq", {}),
        ("", {**SQS, "queue_name_prefix": "my.a/pp"}, "sqs://eu-west-1/my-a_pp-dagster-taskiq", {}),
        ("", {**SQS, "queue_name_prefix": "-"}, "sqs://eu-west-1/dagster-taskiq", {}),
    ],
)
def test_a_url_with_its_options_is_a_region_and_options(
    scheme: str,
    rest: str,
    options: dict[str, Any],
    broker: str,
    broker_options: dict[str, Any],
) -> None:
    translation = translated(f"{scheme}://{rest}", options)
    assert translation.settings["broker"] == broker
    assert translation.settings.get("broker_options", {}) == broker_options


def test_the_engines_own_url_stays_as_it_is() -> None:
    for url in ("sqs://eu-west-1", "sqs://eu-west-1/mine", "sqs://us-gov-east-1"):
        assert translate_broker(url) == (url, ())
    assert translated("sqs://eu-west-1/mine", SQS).settings == {"broker": "sqs://eu-west-1/mine"}
    with pytest.raises(ConfigError, match="is eu-west-1, but that of the transport options is x"):
        translated("sqs://eu-west-1", {"region": "x"})


def test_user_and_password_may_be_settings_of_their_own() -> None:
    translation = translated("sqs://", SQS, broker_user="AKIA", broker_password="se/cret")
    options = {"aws_access_key_id": "AKIA", "aws_secret_access_key": "se/cret"}
    assert translation.settings["broker_options"] == options


@given(st.sampled_from(["", "localhost:4566", "h.example.org"]), passwords, passwords)
def test_credentials_and_endpoint_are_those_that_kombu_reads(
    host: str, key: str, secret: str
) -> None:
    url = f"sqs://{quote(key, safe='')}:{quote(secret, safe='')}@{host}"
    options = translated(url, SQS).settings["broker_options"]
    kombus = Connection(url)
    assert options["aws_access_key_id"] == kombus.userid == key
    assert options["aws_secret_access_key"] == kombus.password == secret
    port = f":{kombus.port}" if kombus.port else ""
    endpoint = f"http://{kombus.hostname}{port}" if kombus.hostname else None
    assert options.get("endpoint_url") == endpoint


# -- transport options -------------------------------------------------------------------------


def test_options_of_polls_and_of_new_queues_are_options_of_the_broker() -> None:
    given = {
        **SQS,
        "wait_time_seconds": 15,
        "sqs-creation-attributes": {"KmsMasterKeyId": "alias/aws/sqs", "VisibilityTimeout": 60},
        "queue_tags": {"Team": "data"},
        "visibility_timeout": 3600,
        "polling_interval": 1,
        "supports_fanout": True,
    }
    translation = translated("sqs://", given)
    assert translation.settings["broker_options"] == {
        "wait_time_seconds": 15,
        "queue_attributes": {"KmsMasterKeyId": "alias/aws/sqs"},
        "queue_tags": {"Team": "data"},
    }
    assert '"broker_options: {wait_time_seconds: 15}"' in text_on(translation, "wait_time_seconds")
    for name in ("visibility_timeout", "polling_interval", "supports_fanout"):
        assert "has no effect here: " in text_on(translation, name)
    assert not any(each.is_loss for each in translation.remarks)


def test_predefined_queues_are_used_as_they_are_each_for_all_priorities() -> None:
    queues = {
        "dagster": {"url": QUEUE, "access_key_id": "AKIA", "secret_access_key": "s3cr3t"},
        "dagster:runs": {"url": OTHER, "access_key_id": "AKIA", "secret_access_key": "s3cr3t"},
    }
    translation = translated("sqs://", {"predefined_queues": queues})
    assert translation.settings == {
        "broker": "sqs://eu-west-1",
        "broker_options": {
            "queue_urls": {"dagster": QUEUE, "dagster:runs": OTHER},
            "priorities": False,
            "aws_access_key_id": "AKIA",
            "aws_secret_access_key": "s3cr3t",
        },
    }
    assert "`queue_urls` of `broker_options`" in text_on(translation, "predefined_queues")


def test_a_predefined_queue_is_known_by_its_name_without_the_prefix() -> None:
    options = {
        "region": "us-east-1",
        "queue_name_prefix": "myapp-",
        "predefined_queues": {"myapp-dagster": {"url": QUEUE, "region": "eu-west-1"}},
    }
    settings = translated("sqs://", options).settings
    assert settings["broker"] == "sqs://eu-west-1/myapp-dagster-taskiq"
    assert settings["broker_options"]["queue_urls"] == {"dagster": QUEUE}


def test_how_long_celery_backs_off_is_lost_and_said_so() -> None:
    queues = {"dagster": {"url": QUEUE, "backoff_policy": {1: 10}, "backoff_tasks": ["t"]}}
    translation = translated("sqs://", {"predefined_queues": queues})
    (remark,) = [each for each in translation.remarks if "backoff_policy" in each.text]
    assert remark.subject == "broker"


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("sqs://AKIA@", {}, "has one of access key and secret only"),
        ("sqs://", {"predefined_queues": ["q"]}, "predefined_queues must be a mapping of queues"),
        ("sqs://", {"predefined_queues": {"q": QUEUE}}, "must be a mapping of queues"),
        ("sqs://", {"predefined_queues": {"q": {}}}, '"q" of predefined_queues needs the URL'),
        (
            "sqs://",
            {"predefined_queues": {"q.fifo": {"url": f"{QUEUE}.fifo"}}},
            '"q.fifo" of predefined_queues is a FIFO queue',
        ),
        (
            "sqs://",
            {
                "predefined_queues": {
                    "a": {"url": QUEUE, "region": "x"},
                    "b": {"url": OTHER, "region": "y"},
                }
            },
            "are in several regions (x, y)",
        ),
        (
            "sqs://a:b@",
            {
                "predefined_queues": {
                    "a": {"url": QUEUE},
                    "b": {"url": OTHER, "access_key_id": "c", "secret_access_key": "d"},
                }
            },
            "have different credentials",
        ),
        ("sqs://", {"is_secure": "maybe"}, "is_secure must be true or false"),
        ("sqs://", {"wait_time_seconds": 21}, "wait_time_seconds must be a whole number of"),
        (
            "sqs://",
            {"sqs-creation-attributes": {"FifoQueue": "true"}},
            "sqs-creation-attributes asks for what is a FIFO queue",
        ),
        (
            "sqs://",
            {"sqs-creation-attributes": {"RedrivePolicy": "{}"}},
            "sqs-creation-attributes has a RedrivePolicy",
        ),
        ("sqs://", {"sts_role_arn": "arn:aws:iam::1:role/r"}, "Name it in a profile of AWS's"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do(
    url: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        translated(url, options)
    assert words in str(caught.value)


def test_what_is_lost_on_sqs_is_said_aloud() -> None:
    translation = translated("sqs://", {**SQS, "client-config": {"connect_timeout": 5}})
    (remark,) = [each for each in translation.remarks if "client-config" in each.subject]
    assert remark.is_loss
    assert "HTTPS_PROXY" in remark.text


def test_options_of_sqs_have_no_effect_on_another_broker() -> None:
    given = {"region": "eu-west-1", "queue_name_prefix": "p-", "wait_time_seconds": 5}
    translation = translated("redis://h", given)
    assert translation.settings == {"broker": "redis://h"}
    for name in given:
        assert text_on(translation, name).endswith(
            "has no effect here: it is an option for SQS. Leave it out."
        )


def test_tls_of_the_broker_is_that_of_sqs_in_any_case() -> None:
    translation = translated("sqs://", SQS, broker_use_ssl=True)
    assert translation.settings == {"broker": "sqs://eu-west-1"}
    (remark,) = [each for each in translation.remarks if "broker_use_ssl" in each.subject]
    assert "SQS is asked by HTTPS" in remark.text


@given(passwords)
@example(f"{MARK}/{MARK}")
def test_no_remark_and_no_error_shows_a_secret(secret: str) -> None:
    queue = {"url": QUEUE, "access_key_id": secret, "secret_access_key": secret}
    for url, options in (
        (f"sqs://AKIA:{secret}@", SQS),
        (f"sqs://AKIA:{quote(secret, safe='')}@localhost:1/x", SQS),
        ("sqs://", {"predefined_queues": {"dagster": queue}}),
        ("sqs://a:b@", {"predefined_queues": {"dagster": queue, "b": {"url": OTHER}}}),
    ):
        try:
            translation = translated(url, options)
        except ConfigError as error:
            assert MARK not in str(error)
        else:
            assert all(MARK not in each.text for each in translation.remarks)


# -- the backend beside it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("celerys", "ours"),
    [
        ("db+postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        ("database+postgresql+psycopg2://h/d", "postgresql://h/d"),
        ("redis://h/1", "redis://h/1"),
        ("db+sqlite:////r.db", "sqlite:////r.db"),
        ("db+mysql://h/d", "rpc://"),
        ("cache+memcached://h", "rpc://"),
        ("s3", "rpc://"),
        ("my.module.Backend", "rpc://"),
        ("disabled", "rpc://"),
    ],
)
def test_a_result_backend_that_keeps_state_is_used_beside_sqs(celerys: str, ours: str) -> None:
    translation = translate_settings({}, "sqs://", backend=celerys)
    assert translation.settings["backend"] == ours
    if ours == "rpc://":
        (remark,) = [each for each in translation.remarks if each.subject == "backend"]
        assert "which SQS does not keep" in remark.text
        assert '"dagster-storage:"' in remark.text
        assert remark.is_loss == (celerys != "disabled")


def test_without_a_backend_it_is_dagsters_postgresql_or_says_what_to_set(tmp_path: Path) -> None:
    configuration = configure("sqs://", "rpc://", config_source={"broker_transport_options": SQS})
    assert configuration.settings.broker == "sqs://eu-west-1"
    with pytest.raises(ConfigError, match=f"Set `backend`, or the variable {BACKEND_ENV}"):
        configuration.settings.resolved(str(tmp_path))
    storage = {"storage": {"postgres": {"postgres_url": "postgresql://h/d"}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(storage))
    assert configuration.settings.resolved(str(tmp_path)).backend_url == "postgresql://h/d"


# -- the environment, and the way over ---------------------------------------------------------


def test_a_queue_in_the_environment_is_the_broker_where_none_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(QUEUE_URL_ENV, QUEUE)
    settings = configure().settings
    assert settings.broker == "sqs://eu-west-1"
    assert settings.broker_options == {"queue_url": QUEUE}
    assert configure("redis://h").settings.broker == "redis://h"


def test_celerys_queues_on_sqs_are_not_looked_at_and_that_is_said() -> None:
    app = make_app({"broker": "sqs://", "backend": "redis://h"})
    with pytest.raises(ConfigError, match="Celery's queues on SQS are not looked at here"):
        celery_servers(app)
