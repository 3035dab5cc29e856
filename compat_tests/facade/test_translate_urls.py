"""Celery's URLs of brokers and backends, held against kombu's and Celery's own lists."""

import ast
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery.app.backends import BACKEND_ALIASES
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.url import url_to_parts
from redis.asyncio.connection import parse_url

import dagster_celery
from dagster_celery._translate.rows import Fate
from dagster_celery._translate.urls.backend_schemes import BACKENDS
from dagster_celery._translate.urls.broker_schemes import BROKERS
from dagster_celery._translate.urls.parts import completed
from dagster_celery._translate.urls.redis import SENTINEL_PORT
from dagster_celery._translate.urls.scheme import Beside, Sentinel
from dagster_celery._translate.urls.translate import translate_backend, translate_broker
from dagster_celery._translate.values import READ_SECONDS
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.redis.connection import BLOCK_SECONDS, RedisConnection
from dagster_taskiq.transport.registry import BACKENDS as ENGINE_BACKENDS
from dagster_taskiq.transport.registry import BROKERS as ENGINE_BROKERS
from dagster_taskiq.transport.sql.sqlite.database import SqliteDatabase
from dagster_taskiq.transport.sqs.url import read_target

Translate = Callable[..., tuple[str, Any]]


def opened_by_engine(url: str, options: dict[str, Any] | None = None) -> None:
    """Let the engine read a URL as it does when it connects; nothing is sent."""
    if scheme_of(url) == "sqlite":
        SqliteDatabase(url, {}, 1.0)
        return
    if scheme_of(url) == "memory":
        return
    if scheme_of(url) == "sqs":
        read_target(url, options or {})
        return
    kind = RabbitConnection if "amqp" in scheme_of(url) else RedisConnection
    connection = kind(url, options or {}, 1.0)

    async def work() -> None:
        await connection.open()
        await connection.close()

    asyncio.run(work())


# -- the lists ---------------------------------------------------------------------------------


def test_every_broker_scheme_of_kombu_has_a_row_and_no_row_is_of_another() -> None:
    assert set(BROKERS) == set(TRANSPORT_ALIASES)
    assert len(BROKERS) == 27


def test_every_backend_scheme_of_celery_has_a_row_and_no_row_is_of_another() -> None:
    assert set(BACKENDS) == set(BACKEND_ALIASES)
    assert len(BACKENDS) == 22


@pytest.mark.parametrize("row", [*BROKERS.values(), *BACKENDS.values()], ids=lambda row: row.name)
def test_each_row_has_an_explanation(row: Any) -> None:
    assert row.explanation.endswith(".")
    assert (row.translate is None) == (row.fate is Fate.REFUSED)


@pytest.mark.parametrize("name", [name for name in BROKERS if BROKERS[name].fate is Fate.REFUSED])
def test_a_broker_that_nothing_serves_is_refused_with_another_to_use(name: str) -> None:
    with pytest.raises(ConfigError, match=r"[Uu]se ") as caught:
        translate_broker(f"{name}://user:s3cret@host/path")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, row in BACKENDS.items() if row.fate in (Fate.NO_EFFECT, Fate.LOST)]
)
@pytest.mark.parametrize("form", ["{}", "{}://", "{}+x://user:s3cret@host/path"])
def test_a_backend_that_nothing_serves_is_accepted_with_a_remark(name: str, form: str) -> None:
    url, (remark,) = translate_backend(form.format(name))
    assert url == "rpc://"
    assert remark.is_loss == (BACKENDS[name].fate is Fate.LOST)
    assert "event log has the results" in remark.text
    assert 'Write "rpc://"' in remark.text
    assert "s3cret" not in remark.text


def test_nothing_of_the_facade_imports_celery() -> None:
    root = Path(dagster_celery.__file__).parent
    nodes = [node for path in root.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert "dagster_celery._translate.rows" in found
    assert not {name for name in found if name.split(".")[0] in ("celery", "kombu")}


# -- brokers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("celerys", "ours"),
    [
        ("amqp://user:pw@host:5672/vhost", "amqp://user:pw@host:5672/vhost"),
        ("pyamqp://guest@localhost:5672//", "pyamqp://guest@localhost:5672//"),
        ("amqps://host", "amqps://host"),
        ("librabbitmq://guest@host//", "amqp://guest@host//"),
        ("rabbit.example.org", "amqp://rabbit.example.org"),
        ("rabbit:5673", "amqp://rabbit:5673"),
        ("amqp://u:p@ss@h//", "amqp://u:p%40ss@h//"),
        ("amqp://h?ssl_cert_reqs=CERT_NONE", "amqps://h?verify=verify_none"),
        ("amqp://h?ssl_ca_certs=%2Fca.pem", "amqps://h?cafile=%2Fca.pem"),
        ("amqp://h//?heartbeat=9", "amqp://h//?heartbeat=9"),
        ("amqp://h//?connect_timeout=4", "amqp://h//?connection_timeout=4000"),
        ("amqp://h//?login_method=EXTERNAL", "amqp://h//?auth=external"),
        ("amqp://a//;amqp://b//", "amqp://a//"),
        ("redis://", "redis://"),
        ("redis://:@h", "redis://:@h"),
        ("redis://host/1", "redis://host/1"),
        ("redis://host//1", "redis://host//1"),
        ("redis://h?ssl_cert_reqs=required", "rediss://h?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
        ("redis://:p@a;redis://:q@b", "redis://:p@a"),
        ("redis+socket:///tmp/r.sock", "unix:///tmp/r.sock"),
        ("redis+socket:///tmp/r.sock?virtual_host=2", "unix:///tmp/r.sock?db=2"),
        ("redis+socket://u:p@/tmp/r.sock", "unix://u:p@/tmp/r.sock"),
        ("sqla+sqlite:///work.db", "sqlite:///work.db"),
        ("sqlalchemy+sqlite:////abs/work.db", "sqlite:////abs/work.db"),
        ("sqla+postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        (
            "sqlalchemy+postgresql+psycopg2://h/d?sslmode=require",
            "postgresql://h/d?sslmode=require",
        ),
        ("dagster-storage:", "dagster-storage:"),
        # The engine's own go through untouched.
        *((url, url) for url in ("embedded://", "sqlite:///f", "memory://name", "unix:///s?db=1")),
        ("redis+sentinel://:p@a:1,b:2/master/0", "redis+sentinel://:p@a:1,b:2/master/0"),
    ],
)
def test_a_broker_is_translated_with_a_remark_on_a_change(celerys: str, ours: str) -> None:
    url, remarks = translate_broker(celerys)
    assert url == ours
    assert bool(remarks) == (celerys != ours)
    assert all(each.subject == "broker" for each in remarks)
    assert translate_broker(url) == (url, ())


def test_sentinels_become_one_url_with_the_name_of_their_master() -> None:
    url, (remark,) = translate_broker(
        "sentinel://:pw@one:26380/3;sentinel://two;sentinel://three:26381",
        Beside(Sentinel("the-master", {"password": "of sentinels"})),
    )
    assert url == (
        f"redis+sentinel://:pw@one:26380,two:{SENTINEL_PORT},three:26381/the-master/3"
        "?sentinel_password=of+sentinels"
    )
    opened_by_engine(url)
    assert "pw" not in remark.text
    assert "of sentinels" not in remark.text


def test_ipv6_addresses_of_sentinels_stay_in_brackets() -> None:
    url, _ = translate_broker(
        "sentinel://[::1]:26380;sentinel://[::2]", Beside(Sentinel("the-master"))
    )
    assert url == f"redis+sentinel://[::1]:26380,[::2]:{SENTINEL_PORT}/the-master/0"
    opened_by_engine(url)


def test_the_port_of_a_sentinel_is_kombus() -> None:
    transport = Connection("sentinel://host", transport_options={"master_name": "m"}).transport
    assert transport.default_port == SENTINEL_PORT


def test_sentinels_without_a_master_are_left_for_the_engine_to_ask() -> None:
    url, _ = translate_broker("sentinel://one/3")
    with pytest.raises(ConfigError, match="names the master"):
        opened_by_engine(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "is empty"),
        ("redi://host", 'Did you mean "redis"'),
        ("redis+foo://host", "Nothing serves"),
        ("redis://host/zero", "number of a database"),
        ("redis+socket:///s?virtual_host=zero", "number of a database"),
        ("redis://host?ssl_cert_reqs=maybe", "CERT_REQUIRED"),
        ("redis://host?credential_provider=a.b", "user and password"),
        ("redis://host:port/0", "percent-encoded"),
        ("sqla+mysql://u:p@h/d", "PostgreSQL can be"),
        ("sqla+sqlite://", "PostgreSQL can be"),
        ("sentinel://h?ssl_cert_reqs=none", "broker_use_ssl"),
        ("amqp://h?connect_timeout=soon", "number of seconds"),
    ],
)
def test_a_broker_that_cannot_be_is_refused_with_what_to_do(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        translate_broker(url)


def test_arguments_of_a_redis_url_without_effect_are_left_out() -> None:
    url, (remark,) = translate_backend(
        "redis://h/0?max_connections=2&socket_timeout=3&health_check_interval=9"
    )
    assert url == "redis://h/0?health_check_interval=9"
    assert '"max_connections" is left out' in remark.text
    assert '"socket_timeout" is left out' in remark.text
    assert translate_backend("redis://h/0?socket_timeout=6") == (
        "redis://h/0?socket_timeout=6",
        (),
    )


def test_a_socket_is_as_patient_as_the_engine_reads() -> None:
    assert READ_SECONDS == BLOCK_SECONDS


# -- backends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("celerys", "ours"),
    [
        ("rpc://", "rpc://"),
        ("rpc", "rpc://"),
        ("redis", "redis://"),
        ("redis://:p@h:6380/1", "redis://:p@h:6380/1"),
        ("rediss://h/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://h/0?ssl_cert_reqs=required"),
        ("redis+socket:///r.sock?virtual_host=1", "unix:///r.sock?db=1"),
        ("db+sqlite:///results.db", "sqlite:///results.db"),
        ("database+sqlite:////abs/results.db", "sqlite:////abs/results.db"),
        ("db+sqlite+pysqlite:///results.db", "sqlite:///results.db"),
        ("db+sqlite://", "rpc://"),
        ("db+postgresql://u:p@h/d", "rpc://"),
        ("my.module:Backend", "rpc://"),
        ("my.module.Backend", "rpc://"),
        ("", "rpc://"),
        *((url, url) for url in ("embedded://", "sqlite:///f", "amqp://h//", "memory://")),
    ],
)
def test_a_backend_is_translated_with_a_remark_on_a_change(celerys: str, ours: str) -> None:
    url, remarks = translate_backend(celerys)
    assert url == ours
    assert bool(remarks) == (celerys != ours)
    assert translate_backend(url) == (url, ())


def test_a_backend_that_celery_does_not_know_either_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match='Did you mean "elasticsearch"'):
        translate_backend("elasticsaerch://h")


# -- parts from elsewhere ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", "amqp://me:p%40@h:5/v"),
        ("amqp://you@h:6/w", "amqp://you:p%40@h:6/w"),
        ("amqp://you:own@h//", "amqp://you:own@h:5//"),
        ("amqp://a;amqp://b", "amqp://me:p%40@a:5/v;amqp://me:p%40@b:5/v"),
        ("sqla+sqlite:///f", "sqla+sqlite:///f"),
    ],
)
def test_a_url_is_completed_with_what_it_does_not_have(url: str, expected: str) -> None:
    assert completed(url, "me", "p@", 5, "v") == expected
    assert completed(url) == url


# -- as kombu and Celery read them -------------------------------------------------------------

MARK = "Zq7"
passwords = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=0, max_size=12
).map(lambda text: f"{MARK}{text}{MARK}")
users = st.sampled_from(["", "guest", "user.name", "with%40at"])
hosts = st.sampled_from(["localhost", "10.0.0.1:6379", "h.example.org", "[::1]:6379"])
schemes = st.sampled_from(["redis", "rediss", "amqp", "pyamqp", "amqps", "librabbitmq"])
paths = st.sampled_from(["", "/", "/0", "//", "/3"])


@given(schemes, users, passwords, hosts, paths)
def test_a_translated_url_means_to_the_engine_what_it_means_to_kombu(
    scheme: str, user: str, password: str, host: str, path: str
) -> None:
    celerys = f"{scheme}://{user}:{quote(password, safe='')}@{host}{path}"
    url, _ = translate_broker(celerys)
    opened_by_engine(url)
    before, after = url_to_parts(celerys), url_to_parts(url)
    assert after[1:] == before[1:]
    if scheme.startswith("redis"):
        engines = parse_url(url)
        assert engines["password"] == before.password == password
        assert engines.get("db", 0) == int((before.path or "0").strip("/") or 0)


@given(
    st.sampled_from([translate_broker, translate_backend]),
    st.sampled_from([*TRANSPORT_ALIASES, *BACKEND_ALIASES, "redis+socket", "db+mysql", "kafak"]),
    users,
    passwords,
    hosts,
    st.sampled_from(["", "/", "/0", "/x", "/0?ssl_cert_reqs=none", "?heartbeat=x", ";redis://b"]),
)
@example(translate_broker, "redis", "", f"{MARK}a/b@c{MARK}", "h", "/x")
@example(translate_broker, "redis", "", f"12;{MARK}", "h", "/0")
@example(translate_broker, "redis", "", f"12/{MARK}", "h", "/0")
@example(translate_broker, "redis", "", f"12?{MARK}", "h", "/0")
@example(translate_broker, "redis", "", f"12#{MARK}", "h", "/0")
@example(translate_broker, "redis", "", f"x@y?virtual_host={MARK}", "h", "/0")
@example(translate_broker, "redis", "", f"a;redis://{MARK}", "h", "/0")
def test_no_remark_and_no_error_shows_a_password(
    translate: Translate, scheme: str, user: str, password: str, host: str, rest: str
) -> None:
    for written in (password, quote(password, safe="")):
        try:
            url, remarks = translate(f"{scheme}://{user}:{written}@{host}{rest}")
        except ConfigError as error:
            assert MARK not in str(error)
            continue
        assert all(MARK not in each.text for each in remarks)
        assert scheme_of(url) in {**ENGINE_BROKERS.entries, **ENGINE_BACKENDS.entries}
