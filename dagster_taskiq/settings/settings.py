"""The settings: which broker and backend are used, and how long things may take.

They come from Dagster config (an executor's or a launcher's), from a YAML file, or from the
environment, always through the same schema (see ``settings.schema``), so a key means the same
everywhere. Each is defined here and nowhere else, with its default, bounds and
description; ``settings.field_kinds`` has the types and marks that a definition is made of.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings import sqs_names
from dagster_taskiq.settings.default_broker import DEFAULT_URL, RPC_SCHEME, address_of, backend_of
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV, read_variable, resolve_env
from dagster_taskiq.settings.field_kinds import (
    FleetWide,
    Integer,
    Kind,
    Modules,
    OptionalUrl,
    Seconds,
    Surface,
    Text,
    Url,
    describe_problem,
    read_definitions,
)
from dagster_taskiq.settings.urls import redact, scheme_of


class OnWorkerLost(str, Enum):
    """What becomes of a step whose worker or child process died."""

    #: The step fails; the op's own ``RetryPolicy`` decides whether it is tried again.
    FAIL = "fail"
    #: The step is tried again even if the op has no ``RetryPolicy`` (a few times at most).
    RETRY = "retry"


class Settings(BaseModel):
    """Everything the two ends of a queue must agree on. Durations are in seconds.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    broker: Annotated[
        Url,
        FleetWide(
            "in a launched run the broker of the worker that executes it, else "
            f"`${BROKER_ENV}`, else `dagster-storage:` if that is a PostgreSQL, else `embedded://`"
        ),
    ] = Field(
        default=DEFAULT_URL,
        description=(
            "URL of the broker, in which tasks wait: `embedded://` (a SQLite file under "
            "$DAGSTER_HOME), `sqlite:///PATH`, `dagster-storage:` (the PostgreSQL database of "
            "Dagster's storage), `postgresql://`, `redis://`, `rediss://`, `unix://`, "
            "`redis+sentinel://`, `amqp://`, `amqps://`, `sqs://REGION`, or `memory://` (the whole "
            "job in this process)."
        ),
    )
    backend: Annotated[
        OptionalUrl,
        FleetWide(f"`${BACKEND_ENV}`, else the broker's server, or beside SQS `dagster-storage:`"),
    ] = Field(
        default=None,
        description=(
            "URL of the backend, which keeps the state of tasks and workers. `rpc://` is the "
            "broker's own server."
        ),
    )
    queue: Text = Field(
        default="dagster", description="The queue of a step or run without a queue tag."
    )
    priority: Annotated[Integer, Surface.EXECUTOR] = Field(
        default=0, description="The priority of a step without a priority tag; higher runs first."
    )
    include: Modules = Field(
        default=(),
        description="Modules that every child of a worker imports before its first task.",
    )
    prefix: Annotated[Text, FleetWide("that of the broker, else `dagster-taskiq`")] = Field(
        default="dagster-taskiq",
        description=(
            "Prefix of every key and queue on the server. Runs and workers must have the same one."
        ),
    )
    heartbeat_interval: Seconds = Field(
        default=5.0, description="Seconds between two heartbeats of a worker."
    )
    lease: Seconds = Field(
        default=30.0,
        description=(
            "Seconds without a heartbeat after which a worker is lost, and so is what it runs. At "
            "least twice `heartbeat_interval`."
        ),
    )
    worker_lost: Annotated[OnWorkerLost, Field(strict=False), Kind.CHOICE, Surface.EXECUTOR] = (
        Field(
            default=OnWorkerLost.FAIL,
            description=(
                "What happens to a step whose worker or process died. `fail`: it fails, and its "
                "`RetryPolicy` decides. `retry`: it is tried again even without a policy, at most "
                "three times. A step that exceeds its time limit, or whose code cannot be loaded, "
                "is not lost."
            ),
        )
    )
    result_ttl: Seconds = Field(
        default=86400.0,
        description="Seconds that the state and result of a finished task are kept.",
    )
    connect_timeout: Seconds = Field(
        default=10.0, description="Seconds within which broker and backend must first answer."
    )
    broker_options: Annotated[Mapping[str, Any], Kind.OPTIONS, FleetWide("none")] = Field(
        default={},
        description=(
            "Passed to the broker's connection: TLS files, timeouts. For Redis these are the "
            "arguments of redis-py's connection, for RabbitMQ the options of RabbitMQ in the "
            "documentation."
        ),
    )
    backend_options: Annotated[
        Mapping[str, Any], Kind.OPTIONS, FleetWide("those of the broker, on the same server")
    ] = Field(default={}, description="The same for the backend.")

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check all values; what is wrong becomes a ``ConfigError``, without pydantic's words."""
        try:
            settings = handler(data)
        except ValidationError as error:
            raise ConfigError(describe_problem(error, DEFINITIONS)) from None
        if settings.lease < 2 * settings.heartbeat_interval:
            raise ConfigError(
                f'"lease" ({settings.lease:g} s) must be at least twice "heartbeat_interval" '
                f"({settings.heartbeat_interval:g} s), or one late heartbeat loses a worker."
            )
        return settings

    def __repr_args__(self) -> Iterable[tuple[str, Any]]:
        """Yield what is shown of the settings (pydantic's own hook): no passwords, no options."""
        yield "broker", redact(self.broker)
        yield "backend", redact(self.backend) if self.backend else None
        yield "queue", self.queue

    @property
    def backend_url(self) -> str:
        """The backend's URL: the broker's if none was given, or ``rpc://``."""
        return self.backend if self.backend and not self._shares_server else self.broker

    @property
    def options_of_backend(self) -> Mapping[str, Any]:
        """The backend's options; on the broker's own server the broker's, unless some are given."""
        if self._shares_server and not self.backend_options:
            return self.broker_options
        return self.backend_options

    @property
    def _shares_server(self) -> bool:
        return self.backend in (None, self.broker) or scheme_of(self.backend or "") == RPC_SCHEME

    def replace(self, **changes: Any) -> "Settings":
        """Return these settings with other values for some of them.

        Raises:
            ConfigError: as for the constructor.
        """
        return Settings(**{**dict(self), **changes})

    def resolved(self, home: str | None = None) -> "Settings":
        """Return these settings with the addresses of broker and backend.

        They are in place of ``embedded://``, ``dagster-storage:`` and the default.

        Args:
            home: the directory of the Dagster instance; ``None`` for ``$DAGSTER_HOME``.

        Raises:
            ConfigError: the embedded broker is wanted and there is no directory for its file; or
                the database of Dagster's storage is, and there is none; or the broker keeps no
                state, and there is no backend that does.
        """
        broker = address_of(self.broker, home)
        return self.replace(broker=broker, backend=backend_of(broker, self.backend, home))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data from which :meth:`from_dict` makes the same settings."""
        return {**self.model_dump(), "include": list(self.include)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], fleet: "Settings | None" = None) -> "Settings":
        """Make settings from the plain data of :meth:`to_dict`, or from a processed config.

        Keys that are neither a setting nor one of ``settings.sqs_names`` are ignored; ``None``
        stands for the default. ``{"env": NAME}`` is resolved at any depth, also inside the options.

        Args:
            value: the settings that are given.
            fleet: the settings of the worker in whose process this is, if it is in one: if
                ``value`` names no broker, what is fleet-wide (``FleetWide``) is the worker's.

        Raises:
            ConfigError: a value is out of range, or names a variable that is not set or empty; or
                a variable that is read in place of a value is empty; or two values contradict each
                other.
        """
        names = (*cls.model_fields, *sqs_names.NAMES)
        given = {name: value[name] for name in names if name in value}
        plain = {name: resolve_env(each) for name, each in given.items() if each is not None}
        of_fleet = fleet is not None and not {"broker", "queue_url"} & plain.keys()
        if of_fleet:
            for definition in DEFINITIONS:
                if definition.fleet_default:
                    plain.setdefault(definition.name, getattr(fleet, definition.name))
        plain = sqs_names.translated(plain, of_fleet, cls.model_fields["queue"].default)
        plain.setdefault("broker", DEFAULT_URL)
        if "backend" not in plain:
            plain["backend"] = read_variable(BACKEND_ENV)
        return cls(**plain)


#: The definitions of all settings.
DEFINITIONS = read_definitions(Settings)
