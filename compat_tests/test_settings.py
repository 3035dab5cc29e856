"""Settings, and the words they are refused with."""

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dagster import DagsterInstance, Shape, instance_for_test
from dagster._config import process_config
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, MissingExtraError
from dagster_taskiq.executor import TaskiqExecutor, taskiq_executor
from dagster_taskiq.settings.env import home_of, resolve_env
from dagster_taskiq.settings.schema import EXECUTOR_FIELDS, LAUNCHER_FIELDS
from dagster_taskiq.settings.settings import OnWorkerLost, Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.settings.worker_fleet import (
    process_settings,
    set_worker_settings,
    worker_settings,
)
from dagster_taskiq.settings.yaml_file import read_settings
from dagster_taskiq.tags import (
    OLDER_NAMES,
    PRIORITY_TAG,
    QUEUE_TAG,
    RUN_PRIORITY_TAG,
    TASK_ID_TAG,
    read_int_tag,
    read_priority,
    read_tag,
)
from dagster_taskiq.transport.registry import (
    BACKENDS,
    BROKERS,
    Entry,
    Registry,
    make_backend,
    make_broker,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_TASKIQ_BROKER", "DAGSTER_TASKIQ_BACKEND", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)


# -- secrets ---------------------------------------------------------------------------------

#: Passwords as people choose them, and forget to quote; with a mark that is in nothing else.
MARK = "Zq7"
passwords = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=0, max_size=20
).map(lambda text: f"{MARK}{text}{MARK}")
schemes = st.sampled_from(
    ["redis", "rediss", "amqp", "pyamqp", "redis+sentinel", "postgresql", "sqs", "kafka"]
)
hosts = st.sampled_from(["localhost", "10.0.0.1:6379", "[::1]:6379", "a:1,b:2", "h.example.org"])
users = st.sampled_from(["", "guest", "user.name", "with%40at"])
paths = st.sampled_from(["", "/", "/0", "//", "/master/3", "/v%2Fhost"])
queries = st.sampled_from(["", "?ssl=true", "?a=1&b=2", "?timeout=3"])


@given(schemes, users, passwords, hosts, paths, queries)
@example("redis", "", f"{MARK}a@b{MARK}", "localhost", "/0", "")
@example("redis", "", f"{MARK}a?password=b{MARK}", "localhost", "/0", "")
@example("redis", "u", f"{MARK}a/b#c?d&e=f{MARK}", "localhost", "", "?a=1&b=2")
@example("redis", "u", f"{MARK}://{MARK}", "localhost", "", "")
def test_no_piece_of_a_password_survives_redacting(
    scheme: str, user: str, password: str, host: str, path: str, query: str
) -> None:
    for written in (password, quote(password, safe="")):
        shown = redact(f"{scheme}://{user}:{written}@{host}{path}{query}")
        assert MARK not in shown
        assert shown.startswith(f"{scheme}://")
        assert redact(shown) == shown


@given(schemes, users, passwords, hosts, paths)
def test_what_is_no_secret_is_still_shown(
    scheme: str, user: str, password: str, host: str, path: str
) -> None:
    url = f"{scheme}://{user}:{quote(password, safe='')}@{host}{path}?timeout=3"
    assert redact(url) == f"{scheme}://{user}:***@{host}{path}?timeout=3"


@given(
    passwords, st.sampled_from(["password", "PASSWORD", "sentinel_password", "api_token", "key"])
)
@example(f"{MARK}a@b{MARK}", "password")
@example(f"{MARK}a:b@c:d{MARK}", "password")
def test_a_secret_in_the_query_does_not_survive_either(password: str, name: str) -> None:
    assume("&" not in password)
    for written in (password, quote(password, safe="")):
        assert MARK not in redact(f"redis://host:6379/0?{name}={written}&timeout=3")
        assert MARK not in redact(f"redis://:{MARK}@host:6379/0?timeout=3&{name}={written}")


@given(st.text(max_size=60))
def test_redacting_takes_whatever_it_is_given(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("url", ["", "redis://host:6379/0", "sqlite:////a/b.db", "unix:///s?db=1"])
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert redact(url) == url


def test_settings_show_no_password() -> None:
    settings = Settings(broker="redis://:s3cr3t@b", backend="redis://u:s3cr3t@c?password=s3cr3t")
    assert "s3cr3t" not in repr(settings)
    assert "s3cr3t" not in str(settings)
    assert "redis://:***@b" in repr(settings)


# -- settings --------------------------------------------------------------------------------


def test_the_default_is_the_embedded_broker_under_dagster_home(tmp_path: Path) -> None:
    settings = Settings.from_dict({}).resolved(str(tmp_path))
    assert settings.broker == f"sqlite:///{tmp_path}/dagster_taskiq/queue.db"
    assert settings.backend_url == settings.broker


def test_dagster_home_is_found_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert Settings().resolved().broker == f"sqlite:///{tmp_path}/dagster_taskiq/queue.db"
    assert Settings(broker="redis://h", backend="embedded://").resolved().backend == (
        f"sqlite:///{tmp_path}/dagster_taskiq/queue.db"
    )


def test_without_dagster_home_the_embedded_broker_says_what_to_set() -> None:
    with pytest.raises(
        ConfigError, match=r"\$DAGSTER_HOME, which is not set.*DAGSTER_TASKIQ_BROKER"
    ):
        Settings().resolved()
    assert Settings(broker="redis://host").resolved().broker == "redis://host"


def test_the_home_of_an_instance_is_where_its_workers_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance_for_test(temp_dir=str(tmp_path), set_dagster_home=False) as instance:
        assert home_of(instance) == str(tmp_path)
        monkeypatch.setenv("DAGSTER_HOME", "/somewhere/else")
        assert home_of(instance) == "/somewhere/else"
    monkeypatch.delenv("DAGSTER_HOME")
    with DagsterInstance.ephemeral() as instance:
        assert home_of(instance) is None


def test_the_environment_is_used_where_the_configuration_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", "redis://from-environment")
    monkeypatch.setenv("DAGSTER_TASKIQ_BACKEND", "redis://backend-from-environment")
    settings = Settings.from_dict({"queue": "q", "backend": None})
    assert settings.broker == "redis://from-environment"
    assert settings.backend_url == "redis://backend-from-environment"
    settings = Settings.from_dict({"broker": "redis://said", "backend": "redis://said-too"})
    assert (settings.broker, settings.backend) == ("redis://said", "redis://said-too")


plain_settings = st.builds(
    Settings,
    broker=st.sampled_from(["embedded://", "redis://h:1/2", "memory://"]),
    backend=st.none() | st.just("redis://other"),
    queue=st.sampled_from(["q", "with space", "ü"]),
    include=st.lists(st.sampled_from(["a", "b.c"])).map(tuple),
    prefix=st.sampled_from(["p", "dagster-taskiq"]),
    heartbeat_interval=st.floats(0.1, 5),
    lease=st.floats(10, 100),
    worker_lost=st.sampled_from(OnWorkerLost),
    result_ttl=st.floats(0.1, 1e6),
    connect_timeout=st.floats(0.1, 100),
    broker_options=st.dictionaries(st.sampled_from("abc"), st.integers() | st.lists(st.text())),
    backend_options=st.dictionaries(st.sampled_from("abc"), st.booleans()),
)


@given(plain_settings)
def test_settings_survive_the_way_to_another_process(settings: Settings) -> None:
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_keys_of_the_executor_that_are_no_settings_are_ignored() -> None:
    assert Settings.from_dict({"max_concurrent": 3, "retries": {"enabled": {}}}) == Settings()


def test_in_a_workers_process_the_workers_own_broker_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = Settings(
        broker="redis://mine", backend="redis://mine/1", prefix="p", broker_options={"a": 1}
    )
    # Undone with the test, like the change that set_worker_settings makes.
    monkeypatch.setattr("dagster_taskiq.settings.worker_fleet._worker_settings", None)
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", "redis://environment")
    set_worker_settings(mine)
    assert process_settings() == mine
    found = Settings.from_dict({"queue": "q"}, worker_settings())
    assert found == mine.replace(queue="q")
    named = Settings.from_dict({"broker": "redis://named"}, mine)
    assert (named.broker, named.backend, named.prefix) == ("redis://named", None, "dagster-taskiq")
    assert named.broker_options == {}


def test_the_schema_of_the_executor_has_the_defaults_of_the_settings() -> None:
    outcome = process_config(Shape(EXECUTOR_FIELDS), {})
    assert outcome.success
    assert Settings.from_dict(outcome.value or {}) == Settings()
    names = {*Settings.model_fields}
    assert names <= set(EXECUTOR_FIELDS), "a setting that no configuration can reach"
    assert all(field.description for name, field in EXECUTOR_FIELDS.items() if name in names)


def test_the_launcher_has_every_setting_but_those_of_steps() -> None:
    assert {*Settings.model_fields} - {*LAUNCHER_FIELDS} == {"priority", "worker_lost"}
    assert {*LAUNCHER_FIELDS} < {*EXECUTOR_FIELDS}


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": "s3cr3t"},
        {"broker": ["s3cr3t"]},
        {"include": "s3cr3t"},
        {"include": [b"s3cr3t"]},
        {"broker_options": "s3cr3t"},
        {"priority": "s3cr3t"},
    ],
)
def test_a_value_of_another_type_is_refused_and_not_quoted(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**changes)
    assert f'"{next(iter(changes))}" must be ' in str(caught.value)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value)[-1:])
    assert caught.value.__suppress_context__


def test_other_values_are_checked_as_those_of_the_constructor() -> None:
    settings = Settings(queue="q")
    assert settings.replace(lease=60).lease == 60.0
    assert settings.replace(lease=60).queue == "q"
    with pytest.raises(ConfigError, match="at least twice"):
        settings.replace(lease=1.0)
    with pytest.raises(ConfigError, match='There is no setting "leese"'):
        settings.replace(leese=60.0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heartbeat_interval": 0}, '"heartbeat_interval" must be more than 0 seconds'),
        ({"lease": -1}, '"lease" must be more than 0 seconds, but it is -1'),
        ({"result_ttl": 0}, '"result_ttl"'),
        ({"connect_timeout": 0}, '"connect_timeout"'),
        ({"lease": 9.0}, '"lease" (9 s) must be at least twice "heartbeat_interval" (5 s)'),
        ({"queue": " "}, '"queue" must not be empty'),
        ({"prefix": ""}, '"prefix" must not be empty'),
        ({"worker_lost": "explode"}, '"worker_lost" must be one of'),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_dict(changes)
    assert problem in str(caught.value)


def test_on_one_server_the_backend_has_the_options_of_the_broker() -> None:
    options = {"ssl_ca_certs": "/ca.pem"}
    settings = Settings(broker="rediss://h", broker_options=options)
    assert settings.options_of_backend == options
    assert settings.replace(backend="rediss://h").options_of_backend == options
    assert settings.replace(backend="rediss://other").options_of_backend == {}
    own = settings.replace(backend_options={"a": 1})
    assert own.options_of_backend == {"a": 1}


# -- {env: NAME} -----------------------------------------------------------------------------


def wrapped(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = {"key": value} if level % 2 else ["beside", value]
    return value


@given(st.integers(0, 8))
def test_env_is_read_at_any_depth(depth: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_SECRET", "the value")
        assert resolve_env(wrapped({"env": "A_SECRET"}, depth)) == wrapped("the value", depth)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter("env".__ne__), inner),
)


@given(json_values)
def test_what_names_no_variable_stays_as_it_is(value: Any) -> None:
    assert resolve_env(value) == value


@pytest.mark.parametrize("value", [{"env": "A", "other": 1}, {"env": 3}, {"env": ["A"]}])
def test_an_option_that_happens_to_be_called_env_stays(value: Mapping[str, Any]) -> None:
    assert resolve_env(value) == value


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE, which is not set in this process"):
        Settings.from_dict({"broker_options": {"a": [{"b": {"env": "NOT_SET_ANYWHERE"}}]}})


def test_a_file_for_celery_executor_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text(
        "execution: {config: {broker: redis://a, config_source: {task_acks_late: true}}}"
    )
    with pytest.raises(ConfigError, match=r"of celery_executor.*dagster-celery reads it.*-b and"):
        read_settings(path)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_variable_that_is_set_to_nothing_is_named_and_no_default_taken(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("broker: {env: THE_URL}\n")
    monkeypatch.setenv("THE_URL", value)
    refused = pytest.raises(ConfigError, match="variable THE_URL is set, but empty")
    with refused:
        read_settings(path)
    with refused:
        taskiq_executor_of({"prefix": {"env": "THE_URL"}})
    with refused:
        Settings.from_dict({"broker_options": {"password": {"env": "THE_URL"}}})
    for name in ("DAGSTER_TASKIQ_BACKEND", "DAGSTER_TASKIQ_BROKER"):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=f"variable {name} is set, but empty"):
            Settings.from_dict({})
    # One that does not count is not looked at.
    chosen = {"broker": "redis://a", "backend": "redis://b"}
    assert Settings.from_dict(chosen).backend_url == "redis://b"


def taskiq_executor_of(config: dict[str, Any]) -> TaskiqExecutor:
    """Return what Dagster makes of an executor's config."""
    outcome = process_config(taskiq_executor.config_schema.config_type, config)
    assert outcome.success
    return TaskiqExecutor.from_config(outcome.value or {})


@pytest.mark.parametrize("name", ["broker", "backend", "queue", "prefix"])
def test_a_setting_that_is_empty_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f'"{name}" must not be empty'):
        Settings.from_dict({name: ""})


def test_env_in_options_reaches_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THE_URL", "redis://host")
    monkeypatch.setenv("THE_CA", "/ca.pem")
    path = tmp_path / "config.yaml"
    path.write_text("broker: {env: THE_URL}\nbroker_options: {tls: [{ca: {env: THE_CA}}]}\n")
    settings = read_settings(path)
    assert settings.broker == "redis://host"
    assert settings.broker_options == {"tls": [{"ca": "/ca.pem"}]}


# -- files -----------------------------------------------------------------------------------


def test_a_file_holds_the_keys_of_the_executor_bare_or_as_in_a_run_config(
    tmp_path: Path,
) -> None:
    bare, nested, empty = (tmp_path / name for name in ("bare.yaml", "nested.yaml", "empty.yaml"))
    bare.write_text("{broker: 'redis://h', queue: q, lease: 60.0, worker_lost: retry}")
    nested.write_text(f"execution: {{config: {bare.read_text()}}}\nops: {{}}\n")
    empty.write_text("")
    expected = Settings(broker="redis://h", queue="q", lease=60.0, worker_lost=OnWorkerLost.RETRY)
    assert read_settings(bare) == read_settings(nested) == expected
    assert read_settings(empty) == Settings()
    nested.write_text("execution:\n")
    assert read_settings(nested) == Settings()


def test_whole_numbers_serve_as_seconds(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("{lease: 60, heartbeat_interval: 5}")
    assert read_settings(path).lease == 60.0


# -- what serves a URL -----------------------------------------------------------------------


@pytest.mark.parametrize("registry", [BROKERS, BACKENDS], ids=["broker", "backend"])
def test_an_unknown_scheme_is_refused_with_the_list_of_known_ones(
    registry: Registry[Any],
) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.find("kafka://user:s3cr3t@host")
    text = str(caught.value)
    assert f"Cannot use 'kafka://user:***@host' as {registry.kind}" in text
    assert "'kafka'" in text
    for scheme in registry.entries:
        assert f"{scheme}://" in text


@pytest.mark.parametrize("registry", [BROKERS, BACKENDS], ids=["broker", "backend"])
def test_every_row_of_the_registry_can_be_imported(registry: Registry[Any]) -> None:
    for scheme in registry.entries:
        assert isinstance(registry.find(f"{scheme.upper()}://x"), type)


def test_brokers_and_backends_are_made_by_their_urls() -> None:
    settings = Settings(broker="memory://one", backend="memory://two")
    assert type(make_broker(settings)).__name__ == "MemoryBroker"
    assert type(make_backend(settings)).__name__ == "MemoryBackend"
    for broken in (settings.replace(broker="x://"), settings.replace(backend="x://")):
        with pytest.raises(ConfigError):
            make_backend(broken, make_broker(broken))


def test_a_missing_extra_is_named_with_the_line_that_installs_it() -> None:
    registry: Registry[Any] = Registry(
        "broker",
        {
            "sqs": Entry("no_such_module_anywhere.sqs", "SqsBroker", extra="sqs"),
            "own": Entry("no_such_module_anywhere", "Broker"),
        },
    )
    with pytest.raises(MissingExtraError) as caught:
        registry.find("sqs://key:s3cr3t@host")
    assert "pip install 'dagster-taskiq[sqs]'" in str(caught.value)
    assert "no_such_module_anywhere" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(MissingExtraError, match="pip install 'dagster-taskiq'"):
        registry.find("own://")


def test_every_error_of_a_configuration_is_one_of_ours() -> None:
    assert issubclass(MissingExtraError, ConfigError)
    assert issubclass(ConfigError, DagsterTaskiqError)


@given(st.text(max_size=40))
@example("redis://[::1")
@example("://")
@example("sqlite:")
def test_whatever_stands_for_a_url_is_served_or_refused_in_our_words(url: str) -> None:
    assume(not url.lower().startswith("embedded"))
    try:
        settings = Settings(broker=url, backend=url).resolved()
        make_backend(settings, make_broker(settings))
    except ConfigError:
        pass


# -- tags ------------------------------------------------------------------------------------


def test_a_tag_is_read_by_its_new_name_then_by_its_older_one() -> None:
    assert read_tag({}, QUEUE_TAG) is None
    assert read_tag({"dagster-celery/queue": "old"}, QUEUE_TAG) == "old"
    both = {"dagster-celery/queue": "old", "dagster-taskiq/queue": "new"}
    assert read_tag(both, QUEUE_TAG) == "new"
    assert read_tag({"dagster-taskiq/queue": "", "dagster-celery/queue": "old"}, QUEUE_TAG) == ""


def test_every_tag_has_an_older_name() -> None:
    assert set(OLDER_NAMES) == {QUEUE_TAG, PRIORITY_TAG, RUN_PRIORITY_TAG, TASK_ID_TAG}
    assert all(old.startswith("dagster-celery/") for old in OLDER_NAMES.values())


@given(st.integers())
def test_a_priority_is_any_integer(number: int) -> None:
    assert read_int_tag({PRIORITY_TAG: str(number)}, PRIORITY_TAG) == number
    assert read_int_tag({OLDER_NAMES[PRIORITY_TAG]: f" {number} "}, PRIORITY_TAG) == number


@pytest.mark.parametrize(
    ("tags", "default", "priority"),
    [
        ({}, 0, 0),
        ({}, 5, 5),
        ({"dagster/priority": "4"}, 0, 4),
        ({"dagster/priority": "4"}, 5, 9),
        ({"dagster/priority": "-4"}, 0, -4),
        ({"dagster/priority": "-4"}, 5, 1),
        ({"dagster/priority": "soon"}, 5, 5),
        ({RUN_PRIORITY_TAG: "3", "dagster/priority": "4"}, 5, 3),
        ({OLDER_NAMES[RUN_PRIORITY_TAG]: "2", "dagster/priority": "4"}, 5, 2),
    ],
)
def test_dagsters_own_priority_counts_from_the_default_where_ours_is_not_set(
    tags: dict[str, str], default: int, priority: int
) -> None:
    assert read_priority(tags, RUN_PRIORITY_TAG, default) == priority


def test_without_the_tag_the_default_stands() -> None:
    assert read_int_tag({}, PRIORITY_TAG) == 0
    assert read_int_tag({"another": "x"}, RUN_PRIORITY_TAG, default=7) == 7


@pytest.mark.parametrize("value", ["high", "", "1.5", "1e3", "0x10", "None"])
@pytest.mark.parametrize(
    ("tag", "older"),
    # The older tag of a run counts as 0 then, as with dagster-celery.
    [(PRIORITY_TAG, False), (PRIORITY_TAG, True), (RUN_PRIORITY_TAG, False)],
)
def test_a_tag_that_is_no_integer_is_refused_by_the_name_it_was_written_with(
    value: str, tag: str, older: bool
) -> None:
    name = OLDER_NAMES[tag] if older else tag
    with pytest.raises(ConfigError) as caught:
        read_int_tag({name: value}, tag)
    assert f'The tag "{name}" must be an integer, but it is {value!r}.' in str(caught.value)
