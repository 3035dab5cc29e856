"""Celery's settings, held against its own list, and what each one becomes."""

import inspect
import ssl
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.app import defaults as celery_defaults
from celery.app.backends import BACKEND_ALIASES
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Queue
from kombu.transport.redis import SentinelChannel
from redis.asyncio.connection import SSLConnection

from compat_tests.facade.test_translate_urls import MARK, opened_by_engine, passwords
from dagster_celery._configuration import configure
from dagster_celery._translate import tables
from dagster_celery._translate.connections.option_rows import TLS, TRANSPORT
from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.rows import Fate, Translation
from dagster_celery._translate.settings.names import new_names, old_name
from dagster_celery._translate.settings.rows import SETTINGS, UNDECLARED
from dagster_celery._translate.settings.translate import translate_settings
from dagster_celery._translate.values import LONGEST_TTL_SECONDS
from dagster_celery.defaults import broker_url as DEFAULT_BROKER
from dagster_taskiq.cli.worker import start
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import OnWorkerLost, Settings

RABBITMQ = "pyamqp://guest@localhost:5672//"
REDIS = "redis://:pw@host:6379/0"


def remark_on(translation: Translation, subject: str) -> str:
    """Return the one remark on a subject."""
    (text,) = (each.text for each in translation.remarks if each.subject == subject)
    return text


def rows_with(fate: Fate) -> list[str]:
    return [name for name, row in {**SETTINGS, **UNDECLARED}.items() if row.fate is fate]


# -- the lists ---------------------------------------------------------------------------------


def test_every_setting_of_celery_has_a_row_and_no_row_is_of_another() -> None:
    assert set(SETTINGS) == set(dict(celery_defaults.flatten(celery_defaults.NAMESPACES)))
    assert len(SETTINGS) == 207


def test_every_older_name_is_known_and_leads_to_the_same_setting() -> None:
    assert dict(new_names(SETTINGS)) == celery_defaults._TO_NEW_KEY


def test_every_option_that_kombu_reads_for_redis_has_a_row() -> None:
    assert set(SentinelChannel.from_transport_options) <= set(TRANSPORT)


@pytest.mark.parametrize(
    "row",
    [*SETTINGS.values(), *UNDECLARED.values(), *TLS.values(), *TRANSPORT.values()],
    ids=lambda row: row.name,
)
def test_each_row_has_an_explanation(row: Any) -> None:
    assert row.explanation.endswith(".")
    assert row.explanation.count("`") % 2 == 0


#: Every setting without effect, as it is written today and as it was.
WITHOUT_EFFECT = [*rows_with(Fate.NO_EFFECT), *rows_with(Fate.LOST)]
NO_EFFECT = [
    *((name, name) for name in WITHOUT_EFFECT),
    *((name, old_name(name)) for name in WITHOUT_EFFECT if name in SETTINGS),
]


@pytest.mark.parametrize(("name", "written"), NO_EFFECT)
def test_what_has_no_effect_is_accepted_with_a_reason(name: str, written: str) -> None:
    row = {**SETTINGS, **UNDECLARED}[name]
    translation = translate_settings({written: "x"}, RABBITMQ)
    assert translation.settings == {"broker": RABBITMQ}
    assert translation.worker == translation.app == {}
    subject = f"config_source.{written}"
    assert remark_on(translation, subject) == f"{subject} has no effect here: {row.explanation}"


@pytest.mark.parametrize("name", rows_with(Fate.REFUSED))
def test_what_would_lose_something_is_refused_with_what_to_use(name: str) -> None:
    with pytest.raises(ConfigError, match=f"config_source.{name} cannot be used here: "):
        translate_settings({name: "x"}, RABBITMQ)


# -- what is translated ------------------------------------------------------------------------

#: What is written, what it becomes (settings, worker, app), and the URLs that are in force.
Case = tuple[dict[str, Any], dict[str, Any], dict[str, str]]


def to_settings(source: dict[str, Any], **expected: Any) -> Case:
    return on(RABBITMQ, source, **expected)


def on_redis(source: dict[str, Any], **expected: Any) -> Case:
    return on(REDIS, source, **expected)


def on(broker: str, source: dict[str, Any], **expected: Any) -> Case:
    return source, {"settings": {"broker": broker, **expected}}, {"broker": broker}


def beside_redis(source: dict[str, Any], **expected: Any) -> Case:
    """A case whose backend is a Redis of its own."""
    servers = {"broker": RABBITMQ, "backend": "redis://cache/1"}
    return source, {"settings": {**servers, **expected}}, servers


def to_url(source: dict[str, Any], **expected: Any) -> Case:
    """A case whose own settings have the URL of the broker."""
    return source, {"settings": expected}, {}


def to_worker(source: dict[str, Any], **expected: Any) -> Case:
    return source, {"worker": expected}, {}


def to_app(source: dict[str, Any], **expected: Any) -> Case:
    return source, {"app": expected}, {}


EAGER = {"broker": "memory://", "backend": "memory://"}
ROUTES = {"execute_plan": {"queue": "other"}}
PERIODIC = {"hourly": {"task": "t", "schedule": 3600}}
LIMITED = {"*": {"time_limit": 9, "rate_limit": "1/s"}}
OF_ONE = {"my_task": {"max_retries": 1}}
LATE = {"task_acks_late": True}
REJECT = {"task_reject_on_worker_lost": True}

#: For each translated setting: what is written, and what it becomes.
CASES: dict[str, list[Case]] = {
    "broker_url": [
        to_url({"broker_url": "redis://h/2"}, broker="redis://h/2"),
        to_url({"broker_url": ["amqp://a//", "amqp://b//"]}, broker="amqp://a//"),
        to_url({"broker_url": "librabbitmq://a//"}, broker="amqp://a//"),
    ],
    "broker_read_url": [to_url({"broker_read_url": "redis://r"}, broker="redis://r")],
    "broker_write_url": [
        to_url(
            {"broker_write_url": "redis://r", "broker_read_url": "redis://r"}, broker="redis://r"
        )
    ],
    "broker_transport": [
        to_url({"broker_transport": "redis", "broker_url": "h"}, broker="redis://h")
    ],
    "broker_host": [to_url({"broker_host": "rabbit"}, broker="amqp://rabbit")],
    "broker_port": [
        to_url({"broker_host": "rabbit", "broker_port": "5673"}, broker="amqp://rabbit:5673")
    ],
    "broker_user": [
        to_url({"broker_url": "amqp://h//", "broker_user": "me"}, broker="amqp://me@h//")
    ],
    "broker_password": [
        to_url(
            {"broker_url": "amqp://me@h//", "broker_password": "a/b"}, broker="amqp://me:a%2Fb@h//"
        )
    ],
    "broker_vhost": [
        to_url({"broker_url": "amqp://h", "broker_vhost": "/"}, broker="amqp://h/%2F"),
        to_url({"broker_url": "amqp://h", "broker_vhost": "v"}, broker="amqp://h/v"),
        to_url({"broker_url": "redis://h", "broker_vhost": "/3"}, broker="redis://h/3"),
    ],
    "broker_use_ssl": [
        to_url(
            {"broker_use_ssl": True, "broker_url": "amqp://h//"},
            broker="amqps://h//",
        ),
        to_url({"broker_use_ssl": False, "broker_url": "amqp://h//"}, broker="amqp://h//"),
        to_url(
            {
                "broker_url": "pyamqp://h//",
                "broker_use_ssl": {
                    "ca_certs": "/ca.pem",
                    "certfile": "/c.pem",
                    "keyfile": "/k.pem",
                    "cert_reqs": ssl.CERT_REQUIRED,
                    "server_hostname": "rabbit",
                },
            },
            broker="amqps://h//",
            broker_options={
                "cafile": "/ca.pem",
                "certfile": "/c.pem",
                "keyfile": "/k.pem",
                "verify": "verify_peer",
                "server_name_indication": "rabbit",
            },
        ),
        to_url(
            {
                "broker_url": "redis://h",
                "broker_use_ssl": {"ssl_cert_reqs": "CERT_NONE", "ssl_ca_certs": "/ca.pem"},
            },
            broker="rediss://h",
            broker_options={"ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem"},
        ),
        # kombu ignores it on Redis, for which it requires a mapping.
        to_url({"broker_url": "redis://h", "broker_use_ssl": True}, broker="redis://h"),
    ],
    "broker_transport_options": [
        on_redis(
            {"broker_transport_options": {"socket_timeout": 30, "client_name": "me"}},
            broker_options={"socket_timeout": 30.0, "client_name": "me"},
        ),
        on_redis({"broker_transport_options": {"global_keyprefix": "mine_"}}, prefix="mine_"),
        to_settings({"broker_transport_options": {"max_retries": 3, "interval_start": 0}}),
        to_url(
            {
                "broker_url": "sentinel://a;sentinel://b",
                "broker_transport_options": {
                    "master_name": "m",
                    "sentinel_kwargs": {"password": "of-sentinels"},
                },
            },
            broker="redis+sentinel://a:26379,b:26379/m/0?sentinel_password=of-sentinels",
        ),
    ],
    "broker_login_method": [
        to_settings({"broker_login_method": "EXTERNAL"}, broker_options={"auth": "external"}),
        to_settings({"broker_login_method": "AMQPLAIN"}),
        on_redis({"broker_login_method": "EXTERNAL"}),
    ],
    "broker_connection_timeout": [
        to_settings({"broker_connection_timeout": 4}, connect_timeout=4.0),
        to_settings({"broker_connection_timeout": 0}),
    ],
    "result_backend": [
        to_settings({"result_backend": "db+sqlite:///f"}, backend="sqlite:///f"),
        to_settings({"result_backend": "db+mysql://u:p@h/d"}, backend="rpc://"),
        to_settings(
            {
                "result_backend": "sentinel://a/1",
                "result_backend_transport_options": {"master_name": "m"},
            },
            backend="redis+sentinel://a:26379/m/1",
        ),
    ],
    "result_backend_transport_options": [
        beside_redis(
            {"result_backend_transport_options": {"socket_timeout": 30}},
            backend_options={"socket_timeout": 30.0},
        ),
        beside_redis(
            {"result_backend_transport_options": {"global_keyprefix": "mine_"}}, prefix="mine_"
        ),
        to_settings({"result_backend_transport_options": {"visibility_timeout": 30}}),
    ],
    "redis_backend_use_ssl": [
        to_settings(
            {
                "result_backend": "redis://cache",
                "redis_backend_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE},
            },
            backend="rediss://cache",
            backend_options={"ssl_cert_reqs": "none"},
        )
    ],
    "redis_host": [
        to_settings({"result_backend": "redis", "redis_host": "c"}, backend="redis://c/0")
    ],
    "redis_port": [
        to_settings({"result_backend": "redis://c", "redis_port": 9}, backend="redis://c:9")
    ],
    "redis_db": [
        to_settings({"result_backend": "redis", "redis_db": 3}, backend="redis://localhost/3")
    ],
    "redis_username": [
        to_settings({"result_backend": "redis://c", "redis_username": "u"}, backend="redis://u@c")
    ],
    "redis_password": [
        to_settings({"result_backend": "redis://c", "redis_password": "p"}, backend="redis://:p@c")
    ],
    "redis_socket_timeout": [
        beside_redis({"redis_socket_timeout": 60}, backend_options={"socket_timeout": 60.0}),
        beside_redis({"redis_socket_timeout": 3}),
        to_settings({"redis_socket_timeout": 60}),
    ],
    "redis_socket_connect_timeout": [
        beside_redis(
            {"redis_socket_connect_timeout": 3}, backend_options={"socket_connect_timeout": 3.0}
        )
    ],
    "redis_socket_keepalive": [
        beside_redis({"redis_socket_keepalive": "yes"}, backend_options={"socket_keepalive": True})
    ],
    "redis_backend_health_check_interval": [
        beside_redis(
            {"redis_backend_health_check_interval": 9},
            backend_options={"health_check_interval": 9.0},
        )
    ],
    "redis_client_name": [
        beside_redis({"redis_client_name": "me"}, backend_options={"client_name": "me"})
    ],
    "database_url": [
        to_settings({"result_backend": "db", "database_url": "sqlite:///f"}, backend="sqlite:///f")
    ],
    "beat_schedule": [to_app({"beat_schedule": PERIODIC}, beat_schedule=PERIODIC)],
    "result_expires": [
        to_settings({"result_expires": 3600}, result_ttl=3600.0),
        to_settings({"result_expires": timedelta(hours=1)}, result_ttl=3600.0),
        to_settings({"result_expires": None}, result_ttl=LONGEST_TTL_SECONDS),
        to_settings({"result_expires": timedelta(days=365)}, result_ttl=LONGEST_TTL_SECONDS),
    ],
    "task_default_queue": [to_settings({"task_default_queue": "mine"}, queue="mine")],
    "task_default_priority": [
        (
            {"task_default_priority": "-3"},
            {"settings": {"priority": -3}, "app": {"task_default_priority": -3}},
            {},
        )
    ],
    "task_always_eager": [
        ({"task_always_eager": True}, {"settings": EAGER, "app": {"task_always_eager": True}}, {}),
        (
            {"task_always_eager": True, "broker_use_ssl": {"ca_certs": "/ca"}},
            {"settings": EAGER, "app": {"task_always_eager": True}},
            {"broker": "sqs://nobody/serves", "backend": "redis://h"},
        ),
        to_app({"task_always_eager": "false"}, task_always_eager=False),
    ],
    "task_eager_propagates": [to_app({"task_eager_propagates": 1}, task_eager_propagates=True)],
    "task_ignore_result": [to_app({"task_ignore_result": True}, task_ignore_result=True)],
    "task_routes": [to_app({"task_routes": ROUTES}, task_routes=ROUTES)],
    "timezone": [to_app({"timezone": "Europe/Paris"}, timezone="Europe/Paris")],
    "enable_utc": [to_app({"enable_utc": "no"}, enable_utc=False)],
    "task_acks_late": [
        to_settings({**LATE, **REJECT}, worker_lost=OnWorkerLost.RETRY),
        to_settings(LATE),
        to_settings({"task_acks_late": False, **REJECT}),
    ],
    "task_reject_on_worker_lost": [
        to_settings({**REJECT, "CELERY_ACKS_LATE": "true"}, worker_lost=OnWorkerLost.RETRY),
        to_settings(REJECT),
    ],
    "task_retry_on_worker_lost": [
        to_settings({"task_retry_on_worker_lost": True}, worker_lost=OnWorkerLost.RETRY)
    ],
    "task_time_limit": [
        to_worker({"task_time_limit": 90}, time_limit=90.0),
        to_worker({"task_time_limit": 0}),
    ],
    "task_soft_time_limit": [to_worker({"task_soft_time_limit": 1.5}, soft_time_limit=1.5)],
    "task_annotations": [
        (
            {"task_annotations": LIMITED},
            {"worker": {"time_limit": 9.0}, "app": {"task_annotations": LIMITED}},
            {},
        ),
        to_app({"task_annotations": [OF_ONE]}, task_annotations=[OF_ONE]),
        to_app({"task_annotations": {}}),
    ],
    "task_queues": [
        to_worker({"task_queues": [Queue("a"), "b", {"name": "c"}]}, queues=("a", "b", "c")),
        to_worker({"task_queues": {"a": {"exchange": "x"}, "b": {}}}, queues=("a", "b")),
        to_worker({"task_queues": []}),
    ],
    "imports": [
        to_settings(
            {"imports": ["one", "two"], "include": "three"}, include=("one", "two", "three")
        )
    ],
    "include": [to_settings({"include": ("one", "one")}, include=("one",))],
    "worker_concurrency": [
        to_worker({"worker_concurrency": 4}, concurrency=4),
        to_worker({"worker_concurrency": "4"}, concurrency=4),
        to_worker({"worker_concurrency": "auto"}),
        to_worker({"worker_concurrency": 0}),
    ],
    "worker_pool": [
        to_worker({"worker_pool": "solo"}, concurrency=1),
        to_worker({"worker_pool": "celery.concurrency.solo:TaskPool"}, concurrency=1),
        to_worker({"worker_pool": "solo", "worker_concurrency": 8}, concurrency=1),
        to_worker({"worker_concurrency": 8, "worker_pool": "gevent"}, concurrency=8),
        to_worker({"worker_pool": "prefork"}),
    ],
    "worker_max_tasks_per_child": [
        to_worker({"worker_max_tasks_per_child": 7}, max_tasks_per_child=7)
    ],
    "worker_max_memory_per_child": [
        to_worker({"worker_max_memory_per_child": 12000}, max_memory_per_child=12000)
    ],
}


def test_every_translated_setting_has_a_case_that_has_it() -> None:
    assert set(CASES) == set(rows_with(Fate.TRANSLATED))
    for name, cases in CASES.items():
        assert all({name, old_name(name)} & set(source) for source, _, _ in cases), name


@pytest.mark.parametrize(
    ("source", "expected", "servers"), [case for cases in CASES.values() for case in cases], ids=str
)
def test_a_translated_setting_has_its_place_and_a_remark_on_it(
    source: dict[str, Any], expected: dict[str, Any], servers: dict[str, str]
) -> None:
    translation = translate_settings(source, **servers)
    assert translation.settings == expected.get("settings", {})
    assert translation.worker == expected.get("worker", {})
    assert translation.app == expected.get("app", {})
    subjects = {each.subject for each in translation.remarks}
    for name in source:
        assert any(each.startswith(f"config_source.{name}") for each in subjects)
    for name, value in translation.settings.items():
        assert getattr(Settings.from_dict(translation.settings), name) == value
    assert set(translation.worker) <= {each.name for each in start.params}


@pytest.mark.parametrize("name", [name for name in CASES if name in SETTINGS])
def test_an_older_name_is_read_like_the_new_one(name: str) -> None:
    source, _, servers = CASES[name][-1]
    older = {old_name(each): value for each, value in source.items()}
    new, old = (translate_settings(each, **servers) for each in (source, older))
    assert (old.settings, old.worker, old.app) == (new.settings, new.worker, new.app)
    assert any(each.subject.startswith(f"config_source.{old_name(name)}") for each in old.remarks)


# -- the text of a remark ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            {"result_expires": 3600},
            'config_source.result_expires is "result_ttl: 3600" of taskiq_executor, in seconds.',
        ),
        (
            {"CELERYD_CONCURRENCY": 4},
            'config_source.CELERYD_CONCURRENCY is "--concurrency 4" of dagster-taskiq worker '
            "start.",
        ),
        (
            {"task_default_queue": "mine"},
            'config_source.task_default_queue is "queue: mine" of taskiq_executor.',
        ),
        (
            {"task_time_limit": 0.5},
            'config_source.task_time_limit is "--time-limit 0.5" of dagster-taskiq worker start.',
        ),
        (
            {"task_quues": []},
            "config_source.task_quues is no setting of Celery's, and has no effect. Did you mean "
            '"task_queues"?',
        ),
        (
            {"broker_heartbeat": None},
            "config_source.broker_heartbeat is not set, which changes nothing. Leave it out.",
        ),
        (
            {"broker_transport_options": {"visibility_timeout": 3600}},
            "config_source.broker_transport_options.visibility_timeout has no effect here: it is "
            "no longer needed. A task that has started is never delivered again, however long it "
            "runs, and a worker that dies is noticed by its heartbeat. Leave it out.",
        ),
        (
            {"broker_transport_options": {"visibilty_timeout": 3600}},
            "config_source.broker_transport_options.visibilty_timeout has no effect here: nothing "
            'is known of it. Did you mean "visibility_timeout"? Leave it out.',
        ),
        (
            {"broker_transport_options": {"socket_timeout": 30}},
            "config_source.broker_transport_options.socket_timeout has no effect here: it is an "
            "option for Redis. Leave it out.",
        ),
    ],
    ids=str,
)
def test_a_remark_has_exactly_what_to_write(source: dict[str, Any], text: str) -> None:
    (remark,) = translate_settings(source, RABBITMQ).remarks
    assert remark.text == text
    assert remark.subject == text.partition(" ")[0]


def test_remarks_name_the_source_of_the_setting() -> None:
    (remark,) = translate_settings(
        {"worker_direct": True}, source_name="dagster_celery_config"
    ).remarks
    assert remark.text.startswith("dagster_celery_config.worker_direct has no effect here")


def test_the_new_name_wins_where_both_stand_in_either_order() -> None:
    both = {"CELERYD_CONCURRENCY": 2, "worker_concurrency": 4}
    for source in (both, dict(reversed(both.items()))):
        assert translate_settings(source).worker == {"concurrency": 4}


def test_variables_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTIFICATES", "/ca.pem")
    monkeypatch.setenv("SLOTS", "3")
    translation = translate_settings(
        {
            "worker_concurrency": {"env": "SLOTS"},
            "broker_use_ssl": {"ca_certs": {"env": "CERTIFICATES"}},
        },
        RABBITMQ,
    )
    assert translation.worker == {"concurrency": 3}
    assert translation.settings["broker_options"] == {"cafile": "/ca.pem"}
    with pytest.raises(ConfigError, match="NOT_THERE, which is not set"):
        translate_settings({"worker_concurrency": {"env": "NOT_THERE"}})


def test_empty_variables_of_celery_are_ignored_as_by_celery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "")
    assert Celery(broker=REDIS).conf.broker_url == REDIS == configure(REDIS).settings.broker
    assert configure().settings.broker == DEFAULT_BROKER


def test_an_empty_variable_of_ours_and_an_empty_url_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for urls in ({"broker": ""}, {"broker": REDIS, "backend": " "}):
        with pytest.raises(ConfigError, match=r"is empty.*that variable is set to nothing"):
            configure(**urls)
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", "")
    with pytest.raises(ConfigError, match="variable DAGSTER_TASKIQ_BROKER is set, but empty"):
        configure()


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"worker_concurrency": "many"}, "worker_concurrency must be a whole number.*'many'"),
        ({"worker_concurrency": -1}, "whole number, 0 or more, but it is -1"),
        ({"worker_concurrency": True}, "whole number"),
        ({"worker_max_tasks_per_child": 1.5}, "whole number"),
        ({"task_time_limit": -5}, "task_time_limit must be a number of seconds.*-5"),
        ({"task_time_limit": "soon"}, "number of seconds"),
        ({"result_expires": timedelta(days=-1)}, "number of seconds"),
        ({"result_expires": float("nan")}, "number of seconds"),
        ({"task_default_priority": "high"}, "whole number, but it is 'high'"),
        ({"task_default_queue": " "}, "must be a text that is not empty"),
        ({"task_always_eager": "perhaps"}, "true or false"),
        ({"task_acks_late": "perhaps"}, "true or false"),
        ({"task_queues": 7}, "list of names"),
        ({"task_queues": [...]}, "list of names"),
        ({"imports": 7}, "list of names"),
        ({"broker_transport_options": "x"}, "must be a mapping"),
        ({"broker_transport_options": {"heartbeat": "x"}}, "transport_options.heartbeat must be"),
        ({"broker_transport_options": {"credential_provider": "x"}}, "user and password"),
        ({"broker_use_ssl": "yes"}, "must be true, false or a mapping"),
        ({"broker_use_ssl": {"cert_reqs": 7}}, "broker_use_ssl.cert_reqs must be one of CERT_REQ"),
        ({"broker_port": "x"}, "broker_port must be a whole number"),
        (
            {"task_serializer": "auth"},
            "task_serializer cannot be auth here: messages are not signed",
        ),
        ({"CELERY_TASK_SERIALIZER": "auth"}, "CELERY_TASK_SERIALIZER cannot be auth"),
        ({"broker_read_url": "redis://a", "broker_write_url": "redis://b"}, "Name one broker"),
        ({"broker_write_url": "redis://elsewhere"}, "Name one broker"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_with_what_it_must_be(source: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        translate_settings(source, RABBITMQ)


@pytest.mark.parametrize("kind", ["broker", "backend"])
def test_sentinels_need_the_name_of_their_master(kind: str) -> None:
    with pytest.raises(ConfigError, match="master_name"):
        translate_settings({}, **{kind: "sentinel://a;sentinel://b"})


#: What YAML may hold as a setting.
texts = st.sampled_from(["", "x", "4", "true", "redis://h", "amqp://h//", "sentinel://a", "://"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "*", "master_name", "cert_reqs"]), inner)
    ),
    max_leaves=4,
)
servers = st.sampled_from(["", "redis://h", "rediss://h", "amqp://h", "unix:///s", "memory://"])


@given(st.dictionaries(st.sampled_from(sorted(CASES)), values, max_size=4), servers, servers)
@example({"broker_url": []}, "", "")
@example({"broker_use_ssl": True}, "", "")
def test_any_value_of_a_setting_is_translated_or_refused(
    source: dict[str, Any], broker: str, backend: str
) -> None:
    try:
        translation = translate_settings(source, broker, backend=backend)
    except ConfigError as error:
        assert str(error).endswith(".")
        return
    assert all(each.text.startswith((each.subject, "The ", "A ")) for each in translation.remarks)
    Settings.from_dict(translation.settings)


# -- connections -------------------------------------------------------------------------------


def test_the_tls_options_are_those_of_redis_py() -> None:
    theirs = set(inspect.signature(SSLConnection.__init__).parameters)
    ours = {row.on[Server.REDIS][0] for row in TLS.values() if Server.REDIS in row.on}
    assert ours <= theirs


@pytest.mark.parametrize(
    ("broker", "names"),
    [
        ("redis://h", Server.REDIS),
        ("sentinel://h", Server.SENTINEL),
        ("redis+socket:///s", Server.SOCKET),
        ("amqp://h", Server.RABBITMQ),
        ("sqs://", Server.SQS),
    ],
)
def test_the_engine_takes_every_transport_option_that_is_translated(
    broker: str, names: Server
) -> None:
    values = {
        "socket_timeout": 30,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 9,
        "client_name": "me",
        "min_other_sentinels": 0,
        "heartbeat": 30,
        "connect_timeout": 3,
        "login_method": "PLAIN",
        "client_properties": {"connection_name": "me"},
        "wait_time_seconds": 5,
        "sqs-creation-attributes": {"KmsMasterKeyId": "alias/aws/sqs"},
        "queue_tags": {"Team": "data"},
    }
    assert set(values) == {name for name, row in TRANSPORT.items() if row.on}
    translation = translate_settings(
        {"broker_transport_options": {**values, "master_name": "m"}}, broker
    )
    options = translation.settings["broker_options"]
    wanted = {row.on[names][0] for row in TRANSPORT.values() if names in row.on}
    assert set(options) == wanted
    opened_by_engine(translation.settings["broker"], options)


def test_a_broker_with_rediss_alone_skips_verification_with_a_warning() -> None:
    translation = translate_settings({}, "rediss://h")
    assert translation.settings["broker_options"] == {"ssl_cert_reqs": "none"}
    assert "?ssl_cert_reqs=required" in translation.remarks[0].text
    for source, url in (
        ({}, "rediss://h?ssl_cert_reqs=required"),
        ({"broker_use_ssl": {"ssl_ca_certs": "/ca"}}, "rediss://h"),
    ):
        options = translate_settings(source, url).settings.get("broker_options", {})
        assert "ssl_cert_reqs" not in options


def test_a_backend_on_the_brokers_server_has_the_brokers_options_as_well() -> None:
    translation = translate_settings(
        {"redis_socket_keepalive": True}, "rediss://h/0", backend="rediss://h/0"
    )
    assert translation.settings["backend_options"] == {
        "ssl_cert_reqs": "none",
        "socket_keepalive": True,
    }


def test_a_url_in_force_is_distinguished_from_one_that_is_not_used() -> None:
    translation = translate_settings({"broker_url": "redis://other"}, REDIS)
    assert translation.settings["broker"] == REDIS
    assert "another URL is in force" in remark_on(translation, "config_source.broker_url")


def test_without_any_broker_nothing_is_made_of_its_options() -> None:
    translation = translate_settings(
        {"broker_use_ssl": True, "broker_transport_options": {"heartbeat": 3}}
    )
    assert translation.settings == {}
    assert len(translation.remarks) == 2


# -- secrets -----------------------------------------------------------------------------------


@given(passwords, st.sampled_from(sorted(BACKEND_ALIASES)))
@example(f"{MARK}@/{MARK}", "redis")
def test_no_remark_and_no_error_shows_a_secret(secret: str, scheme: str) -> None:
    sources: list[dict[str, Any]] = [
        {"broker_password": secret, "broker_user": "u", "broker_url": "amqp://h"},
        {"broker_url": f"redis://:{secret}@h", "result_backend": f"{scheme}://:{secret}@h"},
        {"result_backend": "redis", "redis_password": secret},
        {"broker_url": "rediss://h", "broker_use_ssl": {"ssl_password": secret}},
        {
            "broker_url": "sentinel://h",
            "broker_transport_options": {
                "master_name": "m",
                "sentinel_kwargs": {"password": secret},
            },
        },
        {"security_key_password": secret},
        {"s3_secret_access_key": secret},
        {"redis_backend_credential_provider": secret},
        {"broker_port": 5, "broker_url": f"redis://:{secret}@h"},
    ]
    for source in sources:
        try:
            remarks = translate_settings(source).remarks
        except ConfigError as error:
            assert MARK not in str(error)
        else:
            assert all(MARK not in each.text for each in remarks)


# -- the tables of the documentation -----------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (tables.broker_schemes(), 27),
        (tables.backend_schemes(), 22),
        (tables.celery_settings(), 207 + len(UNDECLARED)),
        (tables.worker_options(), 33),
        (tables.transport_options(), len(TRANSPORT)),
        (tables.tls_options(), len(TLS)),
    ],
)
def test_a_table_has_a_line_for_each_row(table: str, rows: int) -> None:
    lines = table.splitlines()
    assert len(lines) == 2 + rows
    columns = lines[0].replace("\\|", "").count("|")
    assert all(line.replace("\\|", "").count("|") == columns for line in lines)


def test_a_line_of_a_table_has_the_explanation_of_its_row() -> None:
    assert (
        "| `result_expires` | `CELERY_TASK_RESULT_EXPIRES` | translated | `result_ttl` of "
        "`taskiq_executor`, in seconds. |\n"
    ) in tables.celery_settings()
