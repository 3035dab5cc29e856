"""The database of Dagster's storage as the broker: where it is read, and when it is the default."""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from dagster import DagsterInstance

from compat_tests.servers import with_driver
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.settings.dagster_storage import warning_of_missing_package
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.sql.postgresql.database import PostgresqlDatabase
from dagster_taskiq.transport.sql.postgresql.url import read_url

DATABASE = {"username": "u@x", "password": "p/w", "hostname": "h", "db_name": "d"}


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_TASKIQ_BROKER", "DAGSTER_TASKIQ_BACKEND", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def write(home: Path, **document: Any) -> None:
    (home / "dagster.yaml").write_text(yaml.safe_dump(document))


def broker_of(home: Path, **config: Any) -> str:
    return Settings.from_dict(config).resolved(str(home)).broker


def test_that_dagster_postgres_is_missing_is_said_with_what_to_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warning_of_missing_package() is None  # there is no instance
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    write(home, storage={"postgres": {"postgres_db": DATABASE}})
    assert warning_of_missing_package() is None
    monkeypatch.setitem(sys.modules, "dagster_postgres", None)
    assert "pip install dagster-postgres" in str(warning_of_missing_package())
    write(home)
    assert warning_of_missing_package() is None


@pytest.mark.parametrize(
    "document",
    [
        {"storage": {"postgres": {"postgres_db": DATABASE}}},
        {"storage": {"postgres": {"postgres_url": "postgresql://u%40x:p%2Fw@h:5432/d"}}},
        {
            "storage": {
                "custom": {
                    "module": "dagster_postgres",
                    "class": "DagsterPostgresStorage",
                    "config": {"postgres_db": DATABASE},
                }
            }
        },
        {
            "run_storage": {
                "module": "dagster_postgres.run_storage",
                "class": "PostgresRunStorage",
                "config": {"postgres_db": {**DATABASE, "hostname": {"env": "PG_HOST"}}},
            }
        },
    ],
    ids=["parts", "url", "custom", "runs"],
)
@pytest.mark.parametrize("config", [{}, {"broker": "dagster-storage:"}], ids=["default", "named"])
def test_it_is_read_from_dagster_yaml(
    document: dict[str, Any], config: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_HOST", "h")
    write(home, **document)
    assert broker_of(home, **config) == "postgresql://u%40x:p%2Fw@h:5432/d"
    assert read_url(broker_of(home, **config), {}, 1.0).parameters["password"] == "p/w"


def test_what_else_the_storage_has_goes_with_it(home: Path) -> None:
    provider = {"aws_wif": {"region": "eu-1"}}
    storage = {
        "postgres_db": {**DATABASE, "port": 6000, "params": {"sslmode": "require"}},
        "should_autocreate_tables": False,
        "auth_provider": provider,
    }
    write(home, storage={"postgres": storage})
    url = broker_of(home, broker="dagster-storage:?schema=mine")
    arguments = parse_qs(urlsplit(url).query)
    assert json.loads(arguments["auth_provider"][0]) == provider
    target = read_url(url, {}, 1.0)
    assert (target.schema, target.creates_tables) == ("mine", False)
    assert target.auth_provider == provider
    parameters = target.parameters
    assert (parameters["sslmode"], parameters["port"]) == ("require", "6000")
    assert not {"schema", "create_tables", "auth_provider"} & set(parameters)


def test_a_token_is_the_password_of_each_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_postgres import auth  # not in the oldest Dagster, whose tests are other ones

    tokens = iter(["first", "second"])
    monkeypatch.setattr(auth.GcpWifTokenProvider, "_fetch_token", lambda self: (next(tokens), 0.0))
    url = "postgresql://u@h/d?auth_provider=" + json.dumps({"gcp_wif": {}})
    database = PostgresqlDatabase(url, {}, 1.0)
    assert [database._parameters()["password"] for _ in range(2)] == ["first", "second"]


def test_a_dagster_without_tokens_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster_postgres.auth", None)
    url = "postgresql://u@h/d?auth_provider=" + json.dumps({"gcp_wif": {}})
    with pytest.raises(ConfigError, match="pip install --upgrade dagster-postgres"):
        PostgresqlDatabase(url, {}, 1.0)._parameters()


@pytest.mark.parametrize(
    "document", [{}, {"storage": {"sqlite": {"base_dir": "x"}}}], ids=["nothing", "sqlite"]
)
def test_without_a_postgresql_the_embedded_file_is_the_default(
    document: dict[str, Any], home: Path
) -> None:
    if document:
        write(home, **document)
    assert broker_of(home).startswith("sqlite:///")
    with pytest.raises(ConfigError, match="names none"):
        broker_of(home, broker="dagster-storage:")


def test_a_broker_that_is_named_wins_over_the_storage(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, storage={"postgres": {"postgres_db": DATABASE}})
    assert broker_of(home, broker="embedded://").startswith("sqlite:///")
    monkeypatch.setenv("DAGSTER_TASKIQ_BROKER", "redis://h")
    assert broker_of(home) == "redis://h"


def test_a_variable_that_is_not_set_is_an_error(home: Path) -> None:
    write(home, storage={"postgres": {"postgres_url": {"env": "NOT_SET_HERE"}}})
    with pytest.raises(ConfigError, match="NOT_SET_HERE"):
        broker_of(home)


def test_an_instance_s_runs_use_its_storage(new_dagster_home: Path, database_url: str) -> None:
    url = with_driver(database_url)
    write(
        new_dagster_home, telemetry={"enabled": False}, storage={"postgres": {"postgres_url": url}}
    )
    with DagsterInstance.get() as instance:
        settings = settings_for(instance, Settings.from_dict({}))
    assert settings.broker == url
    assert isinstance(registry.make(settings).connection, PostgresqlDatabase)
