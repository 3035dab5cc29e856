"""One typed ``Settings`` object: where work waits, what is known of it, and how long things take.

It comes from Dagster config (an executor's or a launcher's), from a YAML file, or from the
environment, always through the same schema (see ``settings.schema``), so a key means the same
everywhere.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import checked_home, read_home, read_variable, resolve_env
from dagster_taskiq.settings.urls import redact, scheme_of

#: Environment variables used where the configuration names no broker or backend.
BROKER_ENV = "DAGSTER_TASKIQ_BROKER"
BACKEND_ENV = "DAGSTER_TASKIQ_BACKEND"

#: The broker when nothing is configured: a SQLite file under ``$DAGSTER_HOME``.
EMBEDDED_URL = "embedded://"

#: The file of the embedded broker, relative to ``$DAGSTER_HOME``.
EMBEDDED_FILE = Path("dagster_taskiq") / "queue.db"

#: The scheme of a backend that is on the broker's own server, as Celery names it.
RPC_SCHEME = "rpc"


#: What is the same for all of a fleet.
_ON_ONE_FLEET = ("broker", "backend", "prefix", "broker_options", "backend_options")

#: No duration is as long as that: three hundred years, in seconds.
LONGEST_SECONDS = 1e10

_TEXT = ((str,), "a text")
_SECONDS = ((int, float), "a number of seconds")
_MAPPING = ((Mapping,), "a mapping")
#: What each setting is made of, and what that is called.
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "broker": ((str,), "a URL"),
    "backend": ((str, type(None)), "a URL"),
    "queue": _TEXT,
    "priority": ((int,), "an integer"),
    "include": ((tuple,), "a list of module names"),
    "prefix": _TEXT,
    "heartbeat_interval": _SECONDS,
    "lease": _SECONDS,
    "result_ttl": _SECONDS,
    "connect_timeout": _SECONDS,
    "broker_options": _MAPPING,
    "backend_options": _MAPPING,
}


class OnWorkerLost(str, Enum):
    """What becomes of a step whose worker or child process died under it."""

    #: The step fails; the op's own ``RetryPolicy`` decides whether it is tried again.
    FAIL = "fail"
    #: The step is tried again even where the op has no ``RetryPolicy`` (a few times at most).
    RETRY = "retry"


@dataclass(frozen=True)
class Settings:
    """Everything the two ends of a queue must agree on. Durations are in seconds."""

    #: URL of the broker, where work waits.
    broker: str = EMBEDDED_URL
    #: URL of the backend, where the state of tasks and workers is kept; ``None`` and ``rpc://``
    #: stand for the broker's own server.
    backend: str | None = None
    #: The queue of a step or run that has no queue tag.
    queue: str = "dagster"
    #: The priority of a step that has no priority tag, higher first.
    priority: int = 0
    #: Modules every child of a worker imports before its first task.
    include: tuple[str, ...] = ()
    #: Prefix of every key, queue and table on the server, so that others there are not disturbed.
    prefix: str = "dagster-taskiq"
    #: How often a worker says that it lives.
    heartbeat_interval: float = 5.0
    #: How long a worker may be silent before it is lost.
    lease: float = 30.0
    #: What becomes of a step whose worker or child died.
    worker_lost: OnWorkerLost = OnWorkerLost.FAIL
    #: How long a finished task's state and result are kept.
    result_ttl: float = 86400.0
    #: How long the first contact with broker and backend may take.
    connect_timeout: float = 10.0
    #: Passed through to the broker's connection (TLS files, timeouts, ...).
    broker_options: Mapping[str, Any] = field(default_factory=dict)
    #: Passed through to the backend's connection; the broker's where both are on one server.
    backend_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (kinds, what) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                # The value is not quoted: it may be a secret that stands in the wrong place.
                raise ConfigError(f'"{name}" must be {what}, but it is a {type(value).__name__}.')
        if not all(isinstance(each, str) for each in self.include):
            raise ConfigError('"include" must be a list of module names.')
        for name in ("heartbeat_interval", "lease", "result_ttl", "connect_timeout"):
            value = getattr(self, name)
            if not value < LONGEST_SECONDS:
                raise ConfigError(f'"{name}" must be less than {LONGEST_SECONDS:g} seconds.')
            if value <= 0:
                raise ConfigError(f'"{name}" must be more than 0 seconds, but it is {value:g}.')
        if self.lease < 2 * self.heartbeat_interval:
            raise ConfigError(
                f'"lease" ({self.lease:g} s) must be at least twice "heartbeat_interval" '
                f"({self.heartbeat_interval:g} s), or one late heartbeat loses a worker."
            )
        for name in ("broker", "backend", "queue", "prefix"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ConfigError(f'"{name}" must not be empty. Leave it out for its default.')

    def __repr__(self) -> str:
        backend = redact(self.backend) if self.backend else None
        return (
            f"Settings(broker={redact(self.broker)!r}, backend={backend!r}, queue={self.queue!r})"
        )

    @property
    def backend_url(self) -> str:
        """The backend's URL, which is the broker's where none was given, or ``rpc://``."""
        return self.backend if self.backend and not self._is_beside_broker else self.broker

    @property
    def options_of_backend(self) -> Mapping[str, Any]:
        """The backend's options; on the broker's own server the broker's, unless some are given."""
        if self._is_beside_broker and not self.backend_options:
            return self.broker_options
        return self.backend_options

    @property
    def _is_beside_broker(self) -> bool:
        return self.backend in (None, self.broker) or scheme_of(self.backend or "") == RPC_SCHEME

    def resolved(self, home: str | None = None) -> "Settings":
        """Return these settings with ``embedded://`` turned into the file it stands for.

        Args:
            home: the directory of the Dagster instance; ``$DAGSTER_HOME`` where ``None``.

        Raises:
            ConfigError: the embedded broker is wanted and there is no directory for its file.
        """
        broker = _embedded_file_url(self.broker, home)
        backend = _embedded_file_url(self.backend, home) if self.backend else None
        return replace(self, broker=broker, backend=backend)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data from which :meth:`from_dict` makes the same settings."""
        return {**asdict(self), "include": list(self.include)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], fleet: "Settings | None" = None) -> "Settings":
        """Make settings from the plain data of :meth:`to_dict`, or from a processed config.

        Keys that are no setting are ignored; ``None`` stands for the default. ``{"env": NAME}``
        is resolved wherever it stands, also inside the options.

        Args:
            value: the settings that are given.
            fleet: the settings of the worker in whose process this is, if it is in one: if
                ``value`` names no broker, the server, its options and its prefix are the worker's.

        Raises:
            ConfigError: a value is out of range, or names a variable that is not set or empty; or
                a variable that counts in place of a value is empty.
        """
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        plain = {name: resolve_env(each) for name, each in known.items() if each is not None}
        if isinstance(plain.get("include"), list):
            plain["include"] = tuple(plain["include"])
        try:
            plain["worker_lost"] = OnWorkerLost(plain.get("worker_lost", OnWorkerLost.FAIL))
        except ValueError:
            names = ", ".join(each.value for each in OnWorkerLost)
            raise ConfigError(
                f'"worker_lost" must be one of {names}, but it is {plain["worker_lost"]!r}.'
            ) from None
        if "broker" not in plain and fleet is not None:
            for name in _ON_ONE_FLEET:
                plain.setdefault(name, getattr(fleet, name))
        if "broker" not in plain:
            plain["broker"] = read_variable(BROKER_ENV) or EMBEDDED_URL
        if "backend" not in plain:
            plain["backend"] = read_variable(BACKEND_ENV)
        return cls(**plain)


def _embedded_file_url(url: str, home: str | None) -> str:
    if not _is_embedded(url):
        return url
    directory = checked_home(home) if home else read_home()
    if directory is None:
        raise ConfigError(
            "The embedded broker keeps its file under $DAGSTER_HOME, which is not set. Set "
            f"DAGSTER_HOME to an absolute path, or name a broker (`broker`, or {BROKER_ENV})."
        )
    return f"sqlite:///{directory / EMBEDDED_FILE}"


def _is_embedded(url: str) -> bool:
    return scheme_of(url) == scheme_of(EMBEDDED_URL)
