"""Every setting of Celery's, and what becomes of it.

A row with the fate ``TRANSLATED`` has a function that puts its value where it belongs, and returns
the rest of a sentence that says what to write instead; nothing where that was said already.
Settings that say together where the broker and the backend are have been looked at before (see
``servers``); their rows only say so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster_celery._translate.connection_options import (
    OUTAGES,
    Server,
    login,
    tls_options,
    transport_options,
    written,
)
from dagster_celery._translate.draft import Draft, Given
from dagster_celery._translate.rows import Fate, Row, by_name
from dagster_celery._translate.values import (
    LONGEST_TTL_SECONDS,
    anything,
    bigger_than_a_read,
    count,
    kept_for,
    mapping,
    names,
    plain,
    seconds,
    text,
    whole_number,
    yes_or_no,
)
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import OnWorkerLost
from dagster_taskiq.settings.urls import redact, scheme_of

#: Puts a value where it belongs, and returns what the setting "is" here. ``ValueError``: it cannot.
Turn = Callable[[Draft, Given], str]

_IS_THE_DEFAULT = "says what holds here anyway. Leave it out."


@dataclass(frozen=True)
class Setting(Row):
    """A setting, and what translates it."""

    turn: Turn | None = None


# -- kinds of rows -----------------------------------------------------------------------------


def _setting(name: str, key: str, read: Callable[[Any], Any], note: str = "") -> Setting:
    """Return a row for what is one setting here, too."""

    def turn(draft: Draft, given: Given) -> str:
        value = read(given.value)
        if value is None:
            return _IS_THE_DEFAULT
        draft.settings[key] = value
        return f'is "{written({key: value})[1:-1]}" of taskiq_executor.{note}'

    return Setting(name, Fate.TRANSLATED, f"`{key}` of `taskiq_executor`.{note}", turn)


def _worker(name: str, parameter: str, read: Callable[[Any], Any], note: str = "") -> Setting:
    """Return a row for what is an option of the worker here."""
    option = f"--{parameter.replace('_', '-')}"

    def turn(draft: Draft, given: Given) -> str:
        value = read(given.value)
        if value is None:
            return _IS_THE_DEFAULT
        draft.worker[parameter] = value
        return f'is "{option} {plain(value)}" of dagster-taskiq worker start.{note}'

    says = f"`{option}` of `dagster-taskiq worker start`.{note}"
    return Setting(name, Fate.TRANSLATED, says, turn)


def _app(name: str, read: Callable[[Any], Any]) -> Setting:
    """Return a row for what only tasks that are made on the app object look at."""
    says = "read by the object that `make_app` returns, for tasks of your own. Steps do not use it."

    def turn(draft: Draft, given: Given) -> str:
        draft.app[name] = read(given.value)
        return f"is {says}"

    return Setting(name, Fate.TRANSLATED, says[0].upper() + says[1:], turn)


def _option(name: str, key: str, read: Callable[[Any], Any]) -> Setting:
    """Return a row for an option of the connection to a Redis that is the result backend."""

    def turn(draft: Draft, given: Given) -> str:
        if draft.backend_server not in (Server.REDIS, Server.SENTINEL, Server.SOCKET):
            return "has no effect here: the backend is no Redis of its own. Leave it out."
        value = read(given.value)
        if value is None:
            return "has no effect here, with this value. Leave it out."
        draft.add_options("backend_options", {key: value})
        return f'is "backend_options: {written({key: value})}" of taskiq_executor.'

    says = f"`{key}` of `backend_options`, where the backend is a Redis of its own."
    return Setting(name, Fate.TRANSLATED, says, turn)


def _special(name: str, says: str, turn: Turn) -> Setting:
    """Return a row whose value depends on others, or goes to several places."""
    return Setting(name, Fate.TRANSLATED, says, turn)


def _seen_to(name: str, becomes: str) -> Setting:
    """Return a row for a part of a URL, which ``servers`` has put together."""
    return _special(name, f"{becomes[0].upper()}{becomes[1:]}.", lambda _, __: f"is {becomes}.")


def _no_effect(because: str, *several: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, Fate.NO_EFFECT, because) for name in several)


def _refused(instead: str, *several: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, Fate.REFUSED, instead) for name in several)


# -- what depends on more than one setting -----------------------------------------------------


def _url(kind: str) -> Turn:
    def turn(draft: Draft, _: Given) -> str:
        if kind not in draft.settings:
            return "is empty, which changes nothing. Leave it out."
        url = redact(str(draft.settings[kind]))
        return f'is "{kind}: {url}" of taskiq_executor.'

    return turn


def _options_of(kind: str) -> Turn:
    """Return what translates the transport options of the broker or of the backend."""
    becomes = f"{kind}_options"

    def turn(draft: Draft, given: Given) -> str:
        options = mapping(given.value)
        prefix = options.pop("global_keyprefix", None)
        server = draft.server if kind == "broker" else draft.backend_server
        found, remarks = transport_options(options, server, given.subject, becomes)
        draft.add_options(becomes, found)
        draft.remarks += remarks
        if prefix:
            draft.remark(f"{given.subject}.global_keyprefix", _prefix(draft, kind, text(prefix)))
        return "" if given.value else _IS_THE_DEFAULT

    return turn


def _prefix(draft: Draft, kind: str, prefix: str) -> str:
    # Broker and backend have the same one here; the broker's counts.
    if kind == "backend" and draft.settings.setdefault("prefix", prefix) != prefix:
        return "has no effect beside that of the broker: there is one prefix for both."
    draft.settings["prefix"] = prefix
    return f'is "prefix: {prefix}" of taskiq_executor.'


def _tls_of(kind: str) -> Turn:
    becomes = f"{kind}_options"

    def turn(draft: Draft, given: Given) -> str:
        if not given.value:
            return _IS_THE_DEFAULT
        server = draft.server if kind == "broker" else draft.backend_server
        if server in (Server.NONE, Server.SOCKET):
            return f"has no effect here: no {kind} that speaks TLS is named beside it."
        if given.value is True and server is not Server.RABBITMQ:
            return "has no effect, as in Celery: on Redis it has to be a mapping. Leave it out."
        options, remarks = tls_options(given.value, server, given.subject, becomes)
        draft.add_options(becomes, options)
        draft.remarks += remarks
        scheme = scheme_of(str(draft.settings[kind]))
        checks = server is Server.RABBITMQ and options.get("verify") != "verify_none"
        named = "server_name_indication" in options or not checks
        return f'is "{kind}: {scheme}://..." of taskiq_executor.{"" if named else _NAMES_HOST}'

    return turn


_NAMES_HOST = (
    " The server's certificate has to name the host of the URL, which Celery does not ask for: "
    'where it has another name, write "broker_options: {server_name_indication: NAME}".'
)


def _retried(draft: Draft) -> bool:
    late, rejects, retries = (
        yes_or_no(draft.value(name, False))
        for name in ("task_acks_late", "task_reject_on_worker_lost", "task_retry_on_worker_lost")
    )
    return retries or (late and rejects)


def _worker_lost(draft: Draft, given: Given) -> str:
    if not yes_or_no(given.value):
        return (
            "has no effect here: a message is acknowledged once its task has started, and a step "
            "whose worker dies fails; the op's RetryPolicy decides whether it is tried again."
        )
    if _retried(draft):
        draft.settings["worker_lost"] = OnWorkerLost.RETRY
        return 'is "worker_lost: retry" of taskiq_executor.'
    return (
        "alone has no effect here: a message is acknowledged once its task has started, and a step "
        "whose worker dies fails; the op's RetryPolicy decides whether it is tried again. To have "
        'it tried again in any case, write "worker_lost: retry" of taskiq_executor.'
    )


def _eager(draft: Draft, given: Given) -> str:
    draft.app[given.name] = yes_or_no(given.value)
    if not draft.app[given.name]:
        return _IS_THE_DEFAULT
    return 'is "broker: memory://" of taskiq_executor: the whole job runs in its own process.'


def _priority(draft: Draft, given: Given) -> str:
    value = whole_number(given.value)
    draft.settings["priority"] = draft.app[given.name] = value
    return f'is "priority: {value}" of taskiq_executor, for steps without a priority tag.'


def _queues(draft: Draft, given: Given) -> str:
    found = names(given.value)
    if not found:
        return _IS_THE_DEFAULT
    draft.worker["queues"] = found
    return (
        f'is "--queue {",".join(found)}" of dagster-taskiq worker start. Exchanges, routing keys '
        "and arguments of a queue have no effect: a task goes straight to its queue."
    )


def _modules(draft: Draft, given: Given) -> str:
    found = names(given.value)
    draft.settings["include"] = tuple(dict.fromkeys((*draft.settings.get("include", ()), *found)))
    return f'is "include: [{", ".join(found)}]" of taskiq_executor.'


def _is_solo(draft: Draft) -> bool:
    return "solo" in str(draft.value("worker_pool", ""))


def _concurrency(draft: Draft, given: Given) -> str:
    if _is_solo(draft):
        return "has no effect beside `worker_pool: solo`, which is one task at a time."
    if str(given.value).lower() == "auto":
        return "says what holds here anyway: as many tasks as there are cores. Leave it out."
    found = count(given.value)
    if found is None:
        return _IS_THE_DEFAULT
    draft.worker["concurrency"] = found
    return f'is "--concurrency {found}" of dagster-taskiq worker start.'


#: What each pool of Celery's is here, in the words of a remark.
POOLS: Mapping[str, str] = {
    "prefork": "says what holds here anyway: tasks run in child processes. Leave it out.",
    "processes": "says what holds here anyway: tasks run in child processes. Leave it out.",
    "solo": 'is "--concurrency 1" of dagster-taskiq worker start: one task at a time, in a child.',
}
IN_PROCESSES = (
    "has no effect here: tasks run in child processes, one for each that runs at the same time, so "
    "choose a concurrency that cores and memory allow."
)


def _pool(draft: Draft, given: Given) -> str:
    text(given.value)
    if _is_solo(draft):
        draft.worker["concurrency"] = 1
        return POOLS["solo"]
    return POOLS.get(str(given.value), IN_PROCESSES)


def _expires(draft: Draft, given: Given) -> str:
    found = draft.settings["result_ttl"] = kept_for(given.value)
    longest = " Nothing is kept for longer." if found == LONGEST_TTL_SECONDS else ""
    return f'is "result_ttl: {plain(found)}" of taskiq_executor, in seconds.{longest}'


def _login_method(draft: Draft, given: Given) -> str:
    if draft.server is not Server.RABBITMQ:
        return "has no effect here: the broker is no RabbitMQ. Leave it out."
    found = login(given.value)
    if found == "plain":
        return _IS_THE_DEFAULT
    draft.add_options("broker_options", {"auth": found})
    return f'is "broker_options: {{auth: {found}}}" of taskiq_executor.'


#: What an annotation for all tasks may set that has a place here, an option of the worker.
_ANNOTATIONS = ("time_limit", "soft_time_limit")


def _annotations(draft: Draft, given: Given) -> str:
    everyone = given.value.get("*", {}) if isinstance(given.value, Mapping) else {}
    found = {
        name: limit
        for name, value in mapping(everyone).items()
        if name in _ANNOTATIONS and (limit := seconds(value)) is not None
    }
    draft.worker.update(found)
    if not found:
        return (
            "has no effect here: time limits belong to a worker, rates to Dagster's pools, and "
            "retries to an op's RetryPolicy."
        )
    options = " ".join(
        f"--{name.replace('_', '-')} {plain(value)}" for name, value in found.items()
    )
    return (
        f'is "{options}" of dagster-taskiq worker start. Annotations for single tasks, and other '
        "names in them, have no effect."
    )


def _serializer(_: Draft, given: Given) -> str:
    if given.value == "auth":
        raise ConfigError(f"{given.subject} cannot be auth here: {_SIGNING}")
    return f"has no effect here: {_OWN_FORMAT}"


# -- why a setting has no effect, or is refused ------------------------------------------------

_OWN_FORMAT = "messages and results have a format of their own, which is the same everywhere."
_SIGNING = (
    "messages are not signed here. Use a broker with TLS and a user of its own instead "
    "(amqps://USER:PASSWORD@HOST, rediss://:PASSWORD@HOST), and leave the security settings out."
)
NO_BEAT = (
    "there is no beat here. Use Dagster's own schedules for jobs (dagster-daemon), and `taskiq "
    "scheduler` for tasks of your own."
)
_OTHER_BACKEND = (
    "it belongs to a result backend that is not used here: Dagster's event log has the results, "
    "and the state of tasks is kept on the broker's own server."
)
_NO_REMOTE_QUEUES = (
    "status, cancellation and the end of a worker need no queues of their own on the broker."
)
NO_EVENTS = (
    "there is no stream of events, so Flower has nothing to show. `dagster-taskiq status` and "
    "`dagster-taskiq worker list` show what waits and what runs."
)
_STRAIGHT = "a task goes straight to its queue, which is made when it is first used."
_ONE_CONNECTION = "each process keeps the few connections it needs open."
ONE_AT_A_TIME = "a worker takes one message for each free slot, and none ahead."
_STARTED_ONCE = (
    "a message is acknowledged once its task has started, and a task that has started is never "
    "delivered again. Whether a failed step is tried again is for the op's RetryPolicy."
)
_ALWAYS_THERE = "the state of every task is kept, from its start to its end."
_NO_CHORDS = "there are no chords here."
_NO_RATES = (
    "there are no rate limits. Use Dagster's pools, or `tag_concurrency_limits` of taskiq_executor."
)
_OWN_LOGS = (
    "a worker's log has a form of its own, and what a task prints is in Dagster's compute logs and "
    "in the worker's output."
)
_OWN_WORKER = "the worker has parts of its own, which cannot be exchanged."
_FORK_SERVER = "child processes are started from a warm fork server, and replaced when they die."
_NO_DAEMON = "use a service manager, the shell, or the container for it."
_PRIORITIES = "every queue has priorities, higher runs first, with no limit to set."
_HEARTBEAT = (
    "how often a connection says that it lives follows from the `lease`, so that a frozen worker "
    'is noticed in time. To set it anyway, write "broker_options: {heartbeat: 60}" of '
    "taskiq_executor."
)
REVOKED = "what was revoked is known to the backend, and so to every worker."
_DELAYS = "a task with a delay waits in the engine's own way on every broker."

#: Every setting that Celery declares.
SETTINGS: Mapping[str, Setting] = by_name(
    (
        # Where the broker is.
        _special("broker_url", "`broker` of `taskiq_executor`.", _url("broker")),
        _special(
            "broker_read_url", "`broker` of `taskiq_executor`; there is one URL.", _url("broker")
        ),
        _special(
            "broker_write_url", "`broker` of `taskiq_executor`; there is one URL.", _url("broker")
        ),
        _seen_to("broker_transport", "the scheme of `broker`, where that is a host name alone"),
        _seen_to("broker_host", "the host of `broker`, where there is no URL"),
        _seen_to("broker_port", "the port of `broker`, where the URL has none"),
        _seen_to("broker_user", "the user of `broker`, where the URL has none"),
        _seen_to("broker_password", "the password of `broker`, where the URL has none"),
        _seen_to("broker_vhost", "the path of `broker`, where the URL has none"),
        _special(
            "broker_use_ssl",
            "The scheme `amqps://` or `rediss://` of `broker`, with `broker_options`.",
            _tls_of("broker"),
        ),
        _special(
            "broker_transport_options",
            "`broker_options` of `taskiq_executor`; each option has a row of its own.",
            _options_of("broker"),
        ),
        _special("broker_login_method", "`auth` of `broker_options`, on RabbitMQ.", _login_method),
        _setting("broker_connection_timeout", "connect_timeout", seconds),
        *_no_effect(
            OUTAGES,
            "broker_connection_retry",
            "broker_connection_retry_on_startup",
            "broker_connection_max_retries",
            "broker_channel_error_retry",
            "broker_failover_strategy",
        ),
        *_no_effect(_HEARTBEAT, "broker_heartbeat", "broker_heartbeat_checkrate"),
        *_no_effect(_ONE_CONNECTION, "broker_pool_limit", "broker_pool_acquire_timeout"),
        *_no_effect(_DELAYS, "broker_native_delayed_delivery_queue_type"),
        # Where the backend is.
        _special("result_backend", "`backend` of `taskiq_executor`.", _url("backend")),
        _special(
            "result_backend_transport_options",
            "`backend_options` of `taskiq_executor`; each option has a row of its own.",
            _options_of("backend"),
        ),
        _special(
            "redis_backend_use_ssl",
            "The scheme `rediss://` of `backend`, with `backend_options`.",
            _tls_of("backend"),
        ),
        _seen_to("redis_host", "the host of `backend: redis://...`, where there is no URL"),
        _seen_to("redis_port", "the port of `backend`, where the URL has none"),
        _seen_to("redis_db", "the path of `backend`, where there is no URL"),
        _seen_to("redis_username", "the user of `backend`, where the URL has none"),
        _seen_to("redis_password", "the password of `backend`, where the URL has none"),
        _option("redis_socket_timeout", "socket_timeout", bigger_than_a_read),
        _option("redis_socket_connect_timeout", "socket_connect_timeout", seconds),
        _option("redis_socket_keepalive", "socket_keepalive", yes_or_no),
        *_no_effect(_ONE_CONNECTION, "redis_max_connections", "redis_retry_on_timeout"),
        _seen_to("database_url", "the file of `backend: sqlite:///...`, where that is a database"),
        # What becomes of results.
        _special("result_expires", "`result_ttl` of `taskiq_executor`, in seconds.", _expires),
        *_no_effect(
            'a failed task is kept as long as any other, "result_ttl" of taskiq_executor.',
            "result_failure_expires",
        ),
        *_no_effect(
            OUTAGES,
            "result_backend_always_retry",
            "result_backend_max_retries",
            "result_backend_base_sleep_between_retries_ms",
            "result_backend_max_sleep_between_retries_ms",
        ),
        *_no_effect(
            _OWN_FORMAT,
            "result_serializer",
            "result_compression",
            "result_accept_content",
            "accept_content",
            "task_compression",
            "task_protocol",
            "task_remote_tracebacks",
            "task_repr_maxlevels",
        ),
        *_no_effect(
            "the state of tasks is kept in keys and queues of the engine's own.",
            "result_exchange",
            "result_exchange_type",
            "result_persistent",
            "result_cache_max",
            "result_extended",
        ),
        *_no_effect(
            _NO_CHORDS,
            "result_chord_expires",
            "result_chord_retry_interval",
            "result_chord_join_timeout",
            "task_allow_error_cb_on_chord_header",
            "task_inherit_parent_priority",
        ),
        # Tasks.
        _setting("task_default_queue", "queue", text),
        _special(
            "task_default_priority",
            "`priority` of `taskiq_executor`, for steps without a priority tag.",
            _priority,
        ),
        _special("task_always_eager", "`broker: memory://` of `taskiq_executor`.", _eager),
        _app("task_eager_propagates", yes_or_no),
        _app("task_ignore_result", yes_or_no),
        _app("task_routes", anything),
        _app("timezone", anything),
        _app("enable_utc", yes_or_no),
        _special(
            "task_acks_late",
            "With `task_reject_on_worker_lost`, `worker_lost: retry` of `taskiq_executor`. Alone "
            "it changes nothing: a message is acknowledged once its task has started.",
            _worker_lost,
        ),
        _special(
            "task_reject_on_worker_lost",
            "With `task_acks_late`, `worker_lost: retry` of `taskiq_executor`.",
            _worker_lost,
        ),
        _special(
            "task_retry_on_worker_lost", "`worker_lost: retry` of `taskiq_executor`.", _worker_lost
        ),
        *_no_effect(
            _STARTED_ONCE,
            "task_acks_on_failure_or_timeout",
            "task_acks_on_failure",
            "task_acks_on_timeout",
        ),
        _worker("task_time_limit", "time_limit", seconds),
        _worker("task_soft_time_limit", "soft_time_limit", seconds),
        _special(
            "task_annotations",
            "`--time-limit` and `--soft-time-limit` of `dagster-taskiq worker start`, from the "
            'annotations for "*". Others have no effect.',
            _annotations,
        ),
        _special("task_queues", "`--queue` of `dagster-taskiq worker start`.", _queues),
        *_no_effect(_PRIORITIES, "task_queue_max_priority"),
        *_no_effect(
            _STRAIGHT,
            "task_create_missing_queues",
            "task_create_missing_queue_type",
            "task_create_missing_queue_exchange_type",
            "task_default_delivery_mode",
            "task_default_queue_type",
            "task_default_exchange",
            "task_default_exchange_type",
            "task_default_routing_key",
            "worker_direct",
            "worker_detect_quorum_queues",
        ),
        *_no_effect(_NO_RATES, "task_default_rate_limit", "worker_disable_rate_limits"),
        *_no_effect(
            _ALWAYS_THERE,
            "task_track_started",
            "task_store_eager_result",
            "task_store_errors_even_if_ignored",
        ),
        *_no_effect(
            "a task that cannot be sent fails at once, with what to do about it; a run that is "
            "under way waits for its broker.",
            "task_publish_retry",
            "task_publish_retry_policy",
        ),
        *(Setting(name, Fate.NO_EFFECT, _OWN_FORMAT, _serializer) for name in ("task_serializer",)),
        # The worker.
        _special("imports", "`include` of `taskiq_executor`, and of `worker start`.", _modules),
        _special("include", "`include` of `taskiq_executor`, and of `worker start`.", _modules),
        _special(
            "worker_concurrency",
            "`--concurrency` of `dagster-taskiq worker start`.",
            _concurrency,
        ),
        _special(
            "worker_pool",
            "`--concurrency 1` for `solo`; any other is the pool of child processes.",
            _pool,
        ),
        _worker("worker_max_tasks_per_child", "max_tasks_per_child", count),
        _worker("worker_max_memory_per_child", "max_memory_per_child", count, " In KiB."),
        *_no_effect(
            ONE_AT_A_TIME,
            "worker_prefetch_multiplier",
            "worker_disable_prefetch",
            "worker_enable_prefetch_count_reduction",
            "worker_eta_task_limit",
        ),
        *_no_effect(
            _FORK_SERVER,
            "worker_pool_start_method",
            "worker_pool_putlocks",
            "worker_pool_restarts",
            "worker_proc_alive_timeout",
            "worker_lost_wait",
        ),
        *_no_effect(
            "the first signal lets what runs finish; for how long is `--drain-timeout` of "
            "dagster-taskiq worker start.",
            "worker_soft_shutdown_timeout",
            "worker_enable_soft_shutdown_on_idle",
        ),
        *_no_effect(
            "a task goes on while the broker is away, and is not started a second time.",
            "worker_cancel_long_running_tasks_on_connection_loss",
            "worker_deduplicate_successful_tasks",
        ),
        *_no_effect(REVOKED, "worker_state_db"),
        *_no_effect(
            _OWN_LOGS,
            "worker_hijack_root_logger",
            "worker_log_color",
            "worker_log_datefmt",
            "worker_log_format",
            "worker_redirect_stdouts",
            "worker_redirect_stdouts_level",
            "worker_task_log_datefmt",
            "worker_task_log_format",
        ),
        *_no_effect(
            _OWN_WORKER,
            "worker_agent",
            "worker_autoscaler",
            "worker_consumer",
            "worker_timer",
            "worker_timer_precision",
        ),
        *_no_effect(
            "workers answer `dagster-taskiq status` and `dagster-taskiq worker terminate`, and "
            "stop what is cancelled, in any case.",
            "worker_enable_remote_control",
        ),
        *_no_effect(
            NO_EVENTS,
            "worker_send_task_events",
            "task_send_sent_event",
            "event_queue_expires",
            "event_queue_ttl",
            "event_queue_prefix",
            "event_queue_exclusive",
            "event_queue_durable",
            "event_serializer",
            "event_exchange",
        ),
        *_no_effect(
            _NO_REMOTE_QUEUES,
            "control_queue_ttl",
            "control_queue_expires",
            "control_queue_exclusive",
            "control_queue_durable",
            "control_exchange",
        ),
        # What is not here.
        *_no_effect(
            NO_BEAT,
            "beat_enable_remote_control",
            "beat_remote_control_max_tick_age",
            "beat_max_loop_interval",
            "beat_schedule",
            "beat_scheduler",
            "beat_schedule_filename",
            "beat_sync_every",
            "beat_cron_starting_deadline",
        ),
        *_refused(
            _SIGNING,
            "security_certificate",
            "security_cert_store",
            "security_key",
            "security_key_password",
            "security_digest",
        ),
        *_no_effect(
            _OTHER_BACKEND,
            "cache_backend",
            "cache_backend_options",
            "cassandra_entry_ttl",
            "cassandra_keyspace",
            "cassandra_port",
            "cassandra_read_consistency",
            "cassandra_servers",
            "cassandra_bundle_path",
            "cassandra_table",
            "cassandra_write_consistency",
            "cassandra_auth_provider",
            "cassandra_auth_kwargs",
            "cassandra_options",
            "s3_access_key_id",
            "s3_secret_access_key",
            "s3_bucket",
            "s3_base_path",
            "s3_endpoint_url",
            "s3_region",
            "azureblockblob_container_name",
            "azureblockblob_retry_initial_backoff_sec",
            "azureblockblob_retry_increment_base",
            "azureblockblob_retry_max_attempts",
            "azureblockblob_base_path",
            "azureblockblob_connection_timeout",
            "azureblockblob_read_timeout",
            "gcs_bucket",
            "gcs_project",
            "gcs_base_path",
            "gcs_ttl",
            "couchbase_backend_settings",
            "arangodb_backend_settings",
            "mongodb_backend_settings",
            "cosmosdbsql_database_name",
            "cosmosdbsql_collection_name",
            "cosmosdbsql_consistency_level",
            "cosmosdbsql_max_retry_attempts",
            "cosmosdbsql_max_retry_wait_time",
            "elasticsearch_retry_on_timeout",
            "elasticsearch_max_retries",
            "elasticsearch_timeout",
            "elasticsearch_save_meta_as_text",
            "database_engine_options",
            "database_engine_callback",
            "database_short_lived_sessions",
            "database_table_schemas",
            "database_table_names",
            "database_create_tables_at_setup",
        ),
    )
)

#: Settings that Celery reads without declaring them.
UNDECLARED: Mapping[str, Setting] = by_name(
    (
        _option("redis_backend_health_check_interval", "health_check_interval", seconds),
        _option("redis_client_name", "client_name", text),
        *_refused(
            "put user and password into the URL, e.g. from the environment with `backend: "
            "{env: NAME}`.",
            "redis_backend_credential_provider",
        ),
        *_no_effect(
            _NO_DAEMON, "worker_logfile", "worker_pidfile", "worker_umask", "worker_executable"
        ),
        *_refused(
            "start the worker as the user it is to run as (su, `User=` of systemd, the container's "
            "user).",
            "worker_uid",
            "worker_gid",
        ),
    )
)
