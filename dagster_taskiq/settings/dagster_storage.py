"""The database of Dagster's own storage, as ``dagster.yaml`` names it.

Read here without Dagster, which takes seconds to import: a worker's parent process does without it.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import yaml

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import checked_home, read_home, resolve_env
from dagster_taskiq.settings.urls import scheme_of

#: The URL that stands for the database of the instance's storage. It may have a query.
STORAGE_URL = "dagster-storage:"

#: What Dagster imports for a storage in PostgreSQL.
_PACKAGE = "dagster_postgres"
#: The classes of dagster-postgres that stand for a whole storage, or for its part with the runs.
_CLASSES = ("DagsterPostgresStorage", "PostgresRunStorage")


def storage_url(home: str | None, query: str = "") -> str | None:
    """Return the URL of the database in which an instance has its storage.

    Args:
        home: the directory of the Dagster instance; ``None`` for ``$DAGSTER_HOME``.
        query: more arguments for the URL, as they stand in one.

    Returns:
        ``None`` if there is no instance, or its storage is no PostgreSQL.

    Raises:
        ConfigError: ``dagster.yaml`` names a variable that is not set, or no database.
    """
    directory = checked_home(home) if home else read_home()
    config = _postgres_config(directory) if directory is not None else None
    if config is None:
        return None
    url = _url_of(resolve_env(config))
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def warning_of_missing_package() -> str | None:
    """Return what is missing to load the instance of ``$DAGSTER_HOME``; ``None`` if nothing is.

    The broker's tables are used without dagster-postgres, and Dagster's own storage is not.
    """
    try:
        directory = read_home()
    except ConfigError:  # what needs the directory says so
        return None
    if directory is None or _postgres_config(directory) is None:
        return None
    if find_spec(_PACKAGE) is not None:
        return None
    return (
        f"The storage in {directory / 'dagster.yaml'} is PostgreSQL, but {_PACKAGE} is not "
        "installed here, without which Dagster cannot load the instance: runs and steps will fail. "
        "Run: pip install dagster-postgres"
    )


def required_storage_url(url: str, home: str | None) -> str:
    """Return the URL of the database that ``dagster-storage:`` stands for.

    Args:
        url: as it was configured; the arguments of its query are added.
        home: as in :func:`storage_url`.

    Raises:
        ConfigError: as :func:`storage_url`; or there is no such database.
    """
    found = storage_url(home, urlsplit(url).query)
    if found is None:
        raise ConfigError(
            f"{STORAGE_URL} is the PostgreSQL database in which Dagster has its storage, but "
            "dagster.yaml under $DAGSTER_HOME names none (`storage: postgres: ...`). Name a broker "
            "by its URL, such as postgresql://USER:PASSWORD@HOST/DATABASE."
        )
    return found


def is_storage(url: str) -> bool:
    """Return whether a URL stands for the database of Dagster's storage."""
    return scheme_of(url) == scheme_of(STORAGE_URL)


def _postgres_config(home: Path) -> Mapping[str, Any] | None:
    """Return the config of dagster-postgres in an instance's ``dagster.yaml``, if it has one.

    There are three ways to write it: ``storage: postgres:``, a custom class of ``storage``, and
    the class of ``run_storage``, from before there was ``storage``.
    """
    try:
        document = yaml.safe_load((home / "dagster.yaml").read_text())
    except (OSError, yaml.YAMLError):  # none, or one that Dagster itself refuses
        return None
    document = document if isinstance(document, dict) else {}
    storage = document.get("storage")
    storage = storage if isinstance(storage, dict) else {}
    if isinstance(storage.get("postgres"), dict):
        found: Mapping[str, Any] = storage["postgres"]
        return found
    for custom in (storage.get("custom"), document.get("run_storage")):
        if isinstance(custom, dict) and custom.get("class") in _CLASSES:
            config = custom.get("config")
            return config if isinstance(config, dict) else {}
    return None


def _url_of(config: Mapping[str, Any]) -> str:
    """Return the URL for a config of dagster-postgres whose variables are resolved.

    What it has beside the address becomes arguments: that tables are not created, and which tokens
    are used as passwords.
    """
    arguments: dict[str, str] = {}
    if config.get("postgres_url"):
        url = str(config["postgres_url"])
    elif isinstance(config.get("postgres_db"), Mapping):
        parts = config["postgres_db"]
        user = quote(str(parts.get("username", "")), safe="")
        if parts.get("password"):
            user += f":{quote(str(parts['password']), safe='')}"
        address = f"{parts.get('hostname', '')}:{parts.get('port', 5432)}"
        url = f"postgresql://{user}@{address}/{quote(str(parts.get('db_name', '')), safe='')}"
        arguments |= {name: str(value) for name, value in (parts.get("params") or {}).items()}
    else:
        raise ConfigError(
            "The storage in dagster.yaml is PostgreSQL, but has neither postgres_url nor "
            "postgres_db, so it cannot be the broker."
        )
    if config.get("should_autocreate_tables") is False:
        arguments["create_tables"] = "false"
    if config.get("auth_provider"):
        arguments["auth_provider"] = json.dumps(config["auth_provider"])
    if not arguments:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(arguments, quote_via=quote)}"
