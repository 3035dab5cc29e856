"""One Celery configuration, two clients: kombu leaves a mark on a server, the engine finds it."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
import trustme

from compat_tests.contract.test_redis_urls import MASTER, Sentinel
from compat_tests.servers import RabbitServer, free_port, own_rabbit, own_redis
from dagster_celery._translate.settings.translate import translate_settings
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.redis.connection import RedisConnection

MARK = "left-by-kombu"
DATABASE = 3


def connected_by_kombu(url: str, settings: dict[str, Any]) -> kombu.Connection:
    """Return a connection as Celery makes it from these settings (``Celery._connection``)."""
    return kombu.Connection(
        url,
        userid=settings.get("broker_user"),
        password=settings.get("broker_password"),
        virtual_host=settings.get("broker_vhost"),
        port=settings.get("broker_port"),
        ssl=settings.get("broker_use_ssl", False),
        login_method=settings.get("broker_login_method"),
        transport_options=settings.get("broker_transport_options", {}),
    )


def found_by_engine_on_redis(url: str, settings: dict[str, Any]) -> bool:
    translated = translate_settings(settings, url).settings
    options = translated.get("broker_options", {})
    connection = RedisConnection(translated["broker"], options, 5.0)

    async def look() -> bool:
        await connection.open()
        try:
            return bool(await connection.client.exists(MARK))
        finally:
            await connection.close()

    return asyncio.run(look())


def found_by_engine_on_rabbitmq(url: str, settings: dict[str, Any]) -> bool:
    translated = translate_settings(settings, url).settings
    options = translated.get("broker_options", {})
    connection = RabbitConnection(translated["broker"], options, 10.0)

    async def look() -> bool:
        await connection.open()
        try:
            return await connection.count_ready(MARK) is not None
        finally:
            await connection.close()

    return asyncio.run(look())


# -- Redis -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates of one authority, for a server on localhost and for a client."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = {
        "server": authority.issue_cert("localhost", "127.0.0.1"),
        "client": authority.issue_cert("client.example.org"),
    }
    paths = {"ca": directory / "ca.pem"}
    authority.cert_pem.write_to_path(paths["ca"])
    for name, certificate in issued.items():
        paths[name], paths[f"{name}-key"] = (directory / f"{name}{end}.pem" for end in ("", "-key"))
        certificate.cert_chain_pems[0].write_to_path(paths[name])
        certificate.private_key_pem.write_to_path(paths[f"{name}-key"])
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def places(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis with a password, which listens without TLS, with it, and on a socket."""
    socket = tmp_path_factory.mktemp("socket") / "redis.sock"
    secure = free_port()
    arguments = ["--requirepass", "s3cret", "--unixsocket", str(socket), "--tls-port", str(secure)]
    arguments += ["--tls-ca-cert-file", files["ca"], "--tls-cert-file", files["server"]]
    arguments += ["--tls-key-file", files["server-key"]]
    with own_redis(*arguments) as server:
        yield {"plain": f"localhost:{server.port}", "secure": f"localhost:{secure}", "sock": socket}


#: A URL with the places above in braces, and settings with the files above in braces.
ON_REDIS: list[tuple[str, dict[str, Any]]] = [
    (f"redis://:s3cret@{{plain}}/{DATABASE}", {}),
    (f"redis://default:s3cret@{{plain}}//{DATABASE}", {}),
    ("redis://:s3cret@{plain}", {"broker_vhost": str(DATABASE)}),
    (f"redis://{{plain}}/{DATABASE}", {"broker_password": "s3cret"}),
    (f"redis+socket://:s3cret@{{sock}}?virtual_host={DATABASE}", {}),
    (
        f"redis://:s3cret@{{plain}}/{DATABASE}",
        {"broker_transport_options": {"socket_timeout": 30, "client_name": "me"}},
    ),
    (
        f"rediss://:s3cret@{{secure}}/{DATABASE}",
        {
            "broker_use_ssl": {
                "ssl_ca_certs": "{ca}",
                "ssl_certfile": "{client}",
                "ssl_keyfile": "{client-key}",
                "ssl_cert_reqs": ssl.CERT_REQUIRED,
            }
        },
    ),
    (
        f"redis://:s3cret@{{secure}}/{DATABASE}",
        {
            "broker_use_ssl": {
                "ssl_certfile": "{client}",
                "ssl_keyfile": "{client-key}",
                "ssl_cert_reqs": ssl.CERT_NONE,
            }
        },
    ),
    (
        f"rediss://:s3cret@{{secure}}/{DATABASE}?ssl_cert_reqs=CERT_REQUIRED"
        "&ssl_ca_certs={ca}&ssl_certfile={client}&ssl_keyfile={client-key}",
        {},
    ),
]


@pytest.mark.parametrize(("url", "settings"), ON_REDIS, ids=str)
def test_the_engine_comes_to_the_redis_that_kombu_came_to(
    url: str, settings: dict[str, Any], places: dict[str, Any], files: dict[str, str]
) -> None:
    url, settings = filled(url, {**places, **files}), filled(settings, files)
    assert not found_by_engine_on_redis(url, settings)
    with connected_by_kombu(url, settings) as connection:
        client = connection.default_channel.client
        assert client.connection_pool.connection_kwargs["db"] == DATABASE
        client.set(MARK, 1)
        try:
            assert found_by_engine_on_redis(url, settings)
        finally:
            client.delete(MARK)


@pytest.mark.parametrize(
    "url", ["rediss://:s3cret@{secure}/0", "rediss://:s3cret@{secure}/0?ssl_cert_reqs=none"]
)
def test_the_certificate_of_rediss_alone_is_not_checked_as_in_kombu(
    url: str, files: dict[str, str]
) -> None:
    secure = free_port()
    arguments = ["--requirepass", "s3cret", "--tls-port", str(secure), "--tls-auth-clients", "no"]
    arguments += ["--tls-ca-cert-file", files["ca"], "--tls-cert-file", files["server"]]
    with own_redis(*arguments, "--tls-key-file", files["server-key"]):
        url = url.format(secure=f"localhost:{secure}")
        with connected_by_kombu(url, {}) as connection:
            connection.default_channel.client.set(MARK, 1)
        assert found_by_engine_on_redis(url, {})


def test_the_engine_comes_to_the_master_of_the_sentinels_of_kombu(tmp_path: Path) -> None:
    with own_redis() as master:
        sentinel = Sentinel(tmp_path, master)
        try:
            sentinel.wait_for(lambda client: client.sentinel_master(MASTER))
            url = f"sentinel://127.0.0.1:{sentinel.port}/{DATABASE}"
            settings = {"broker_transport_options": {"master_name": MASTER}}
            with connected_by_kombu(url, settings) as connection:
                connection.default_channel.client.set(MARK, 1)
            assert found_by_engine_on_redis(url, settings)
        finally:
            sentinel.stop()


# -- RabbitMQ ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rabbit(files: dict[str, str]) -> Iterator[tuple[RabbitServer, int]]:
    """A RabbitMQ, and its port with TLS, on which it requires a certificate."""
    secure = free_port()
    with own_rabbit(
        f'{{ssl_listeners, [{{"127.0.0.1", {secure}}}]}}',
        f'{{ssl_options, [{{cacertfile, "{files["ca"]}"}}, {{certfile, "{files["server"]}"}},'
        f' {{keyfile, "{files["server-key"]}"}}, {{verify, verify_peer}},'
        " {fail_if_no_peer_cert, true}]}",
    ) as server:
        yield server, secure


#: As for Redis.
ON_RABBITMQ: list[tuple[str, dict[str, Any]]] = [
    ("pyamqp://guest@{plain}//", {}),
    ("amqp://guest:guest@{plain}/%2F", {}),
    ("amqp://{plain}", {"broker_user": "guest", "broker_password": "guest", "broker_vhost": "/"}),
    ("localhost", {"broker_port": "{port}"}),
    ("pyamqp://{plain}//", {"broker_login_method": "PLAIN"}),
    ("pyamqp://{plain}//", {"broker_transport_options": {"max_retries": 3, "interval_max": 0.5}}),
    (
        "pyamqp://guest@{secure}//",
        {
            "broker_use_ssl": {
                "ca_certs": "{ca}",
                "certfile": "{client}",
                "keyfile": "{client-key}",
                "cert_reqs": ssl.CERT_REQUIRED,
                "server_hostname": "localhost",
            }
        },
    ),
    (
        "amqps://guest@{secure}//",
        {
            "broker_use_ssl": {
                "certfile": "{client}",
                "keyfile": "{client-key}",
                "cert_reqs": ssl.CERT_NONE,
            }
        },
    ),
]


@pytest.mark.parametrize(("url", "settings"), ON_RABBITMQ, ids=str)
def test_the_engine_comes_to_the_rabbitmq_that_kombu_came_to(
    url: str,
    settings: dict[str, Any],
    rabbit: tuple[RabbitServer, int],
    files: dict[str, str],
) -> None:
    server, secure = rabbit
    places = {"plain": f"localhost:{server.port}", "secure": f"localhost:{secure}", **files}
    places["port"] = str(server.port)
    url, settings = filled(url, places), filled(settings, places)
    assert not found_by_engine_on_rabbitmq(url, settings)
    with connected_by_kombu(url, settings) as connection:
        queue = kombu.Queue(MARK, durable=True)(connection.default_channel)
        queue.queue_declare()
        try:
            assert found_by_engine_on_rabbitmq(url, settings)
        finally:
            queue.delete()


def filled(value: Any, places: dict[str, Any]) -> Any:
    """Return a text with the places in braces put in, or a mapping with such texts."""
    if isinstance(value, dict):
        return {name: filled(each, places) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    for name, place in places.items():
        value = value.replace(f"{{{name}}}", str(place))
    return value
