"""Passwords that a cloud's identity service makes (IAM of AWS, Azure and GCP), by dagster-postgres.

Imported only if the storage of the instance has an ``auth_provider``.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from dagster_taskiq.errors import ConfigError


class TokenProvider(Protocol):
    """What makes tokens; any thread may ask."""

    def get_token(self) -> str:
        """Return a token that is valid for some minutes."""


def make_token_provider(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> TokenProvider:
    """Return the provider that a config of dagster-postgres names.

    Args:
        config: its ``auth_provider``.
        parameters: those of libpq, with the address and user that a token is for.

    Raises:
        ConfigError: this dagster-postgres has no such thing.
    """
    try:
        from dagster_postgres.auth import create_token_provider  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "The storage in dagster.yaml has an auth_provider, for which a newer dagster-postgres "
            f"is needed ({error}). Run: pip install --upgrade dagster-postgres"
        ) from error
    address = {
        "hostname": parameters.get("host", ""),
        "port": int(parameters.get("port", 5432)),
        "username": parameters.get("user", ""),
    }
    provider: TokenProvider = create_token_provider(dict(config), address)
    return provider
