"""The table of Celery's settings.

The settings that have a part of the URLs of broker and backend are used before, by ``server_urls``;
their rows only name the result.
"""

from collections.abc import Mapping

from dagster_celery._translate.reasons import NO_EVENTS, ONE_AT_A_TIME, OUTAGES, OWN_BEAT, REVOKED
from dagster_celery._translate.rows import Fate, by_name
from dagster_celery._translate.settings import translations
from dagster_celery._translate.settings.kinds import (
    Setting,
    app_setting,
    backend_option,
    lost,
    no_effect,
    part_of_url,
    refused,
    setting,
    special,
    worker_option,
)
from dagster_celery._translate.settings.translations import OWN_FORMAT, SIGNING
from dagster_celery._translate.values import (
    anything,
    bigger_than_a_read,
    count,
    seconds,
    text,
    yes_or_no,
)

_OTHER_BACKEND = (
    "it belongs to a result backend that is not used here: Dagster's event log has the results, "
    "and the state of tasks is kept on the broker's own server."
)
_NO_REMOTE_QUEUES = (
    "status, cancellation and the end of a worker need no queues of their own on the broker."
)
_STRAIGHT = "a task goes straight to its queue, which is made when it is first used."
_ONE_CONNECTION = "each process keeps the few connections it needs open."
_STARTED_ONCE = (
    "a message is acknowledged once its task has started, and a task that has started is never "
    "delivered again. Whether a failed step is tried again is for the op's RetryPolicy."
)
_ALWAYS_THERE = "the state of every task is kept, from its start to its end."
_CHORDS = (
    "what is kept of the tasks of a chord is kept as of all others, and looked at when one ends."
)
_NO_RATES = (
    "there are no rate limits. Use Dagster's pools, or `tag_concurrency_limits` of taskiq_executor."
)
_OWN_LOGS = (
    "a worker's log has a form of its own, or is JSON with `DAGSTER_TASKIQ_LOG_FORMAT=json`; what "
    "a task prints is in Dagster's compute logs and in the worker's output."
)
_OWN_WORKER = "the worker has parts of its own, which cannot be exchanged."
_FORK_SERVER = "child processes are started from a warm fork server, and replaced when they die."
_NO_DAEMON = "use a service manager, the shell, or the container for it."
_PRIORITIES = "every queue has priorities, higher runs first, with no limit to set."
_HEARTBEAT = (
    "how often a connection sends a heartbeat follows from the `lease`, so that a frozen worker is "
    'noticed in time. To set it anyway, write "broker_options: {heartbeat: 60}" of taskiq_executor.'
)
_DELAYS = "a task with a delay waits in the engine's own way on every broker."

#: Every setting that Celery declares.
SETTINGS: Mapping[str, Setting] = by_name(
    (
        # The broker.
        special("broker_url", "`broker` of `taskiq_executor`.", translations.url_of("broker")),
        special(
            "broker_read_url",
            "`broker` of `taskiq_executor`; there is one URL.",
            translations.url_of("broker"),
        ),
        special(
            "broker_write_url",
            "`broker` of `taskiq_executor`; there is one URL.",
            translations.url_of("broker"),
        ),
        part_of_url("broker_transport", "the scheme of `broker`, if that is a host name alone"),
        part_of_url("broker_host", "the host of `broker`, if there is no URL"),
        part_of_url("broker_port", "the port of `broker`, if the URL has none"),
        part_of_url("broker_user", "the user of `broker`, if the URL has none"),
        part_of_url("broker_password", "the password of `broker`, if the URL has none"),
        part_of_url("broker_vhost", "the path of `broker`, if the URL has none"),
        special(
            "broker_use_ssl",
            "The scheme `amqps://` or `rediss://` of `broker`, with `broker_options`.",
            translations.tls_of("broker"),
        ),
        special(
            "broker_transport_options",
            "`broker_options` of `taskiq_executor`; each option has a row of its own.",
            translations.options_of("broker"),
        ),
        special(
            "broker_login_method",
            "`auth` of `broker_options`, on RabbitMQ.",
            translations.login_method,
        ),
        setting("broker_connection_timeout", "connect_timeout", seconds),
        *no_effect(
            OUTAGES,
            "broker_connection_retry",
            "broker_connection_retry_on_startup",
            "broker_connection_max_retries",
            "broker_channel_error_retry",
            "broker_failover_strategy",
        ),
        *no_effect(_HEARTBEAT, "broker_heartbeat", "broker_heartbeat_checkrate"),
        *no_effect(_ONE_CONNECTION, "broker_pool_limit", "broker_pool_acquire_timeout"),
        *no_effect(_DELAYS, "broker_native_delayed_delivery_queue_type"),
        # The backend.
        special(
            "result_backend", "`backend` of `taskiq_executor`.", translations.url_of("backend")
        ),
        special(
            "result_backend_transport_options",
            "`backend_options` of `taskiq_executor`; each option has a row of its own.",
            translations.options_of("backend"),
        ),
        special(
            "redis_backend_use_ssl",
            "The scheme `rediss://` of `backend`, with `backend_options`.",
            translations.tls_of("backend"),
        ),
        part_of_url("redis_host", "the host of `backend: redis://...`, if there is no URL"),
        part_of_url("redis_port", "the port of `backend`, if the URL has none"),
        part_of_url("redis_db", "the path of `backend`, if there is no URL"),
        part_of_url("redis_username", "the user of `backend`, if the URL has none"),
        part_of_url("redis_password", "the password of `backend`, if the URL has none"),
        backend_option("redis_socket_timeout", "socket_timeout", bigger_than_a_read),
        backend_option("redis_socket_connect_timeout", "socket_connect_timeout", seconds),
        backend_option("redis_socket_keepalive", "socket_keepalive", yes_or_no),
        *no_effect(_ONE_CONNECTION, "redis_max_connections", "redis_retry_on_timeout"),
        part_of_url("database_url", "the file of `backend: sqlite:///...`, if that is a database"),
        # Results.
        special(
            "result_expires", "`result_ttl` of `taskiq_executor`, in seconds.", translations.expires
        ),
        *no_effect(
            'a failed task is kept as long as any other, "result_ttl" of taskiq_executor.',
            "result_failure_expires",
        ),
        *no_effect(
            OUTAGES,
            "result_backend_always_retry",
            "result_backend_max_retries",
            "result_backend_base_sleep_between_retries_ms",
            "result_backend_max_sleep_between_retries_ms",
        ),
        *no_effect(
            OWN_FORMAT,
            "result_serializer",
            "result_compression",
            "result_accept_content",
            "accept_content",
            "task_compression",
            "task_protocol",
            "task_remote_tracebacks",
            "task_repr_maxlevels",
        ),
        *no_effect(
            "the state of tasks is kept in keys and queues of the engine's own.",
            "result_exchange",
            "result_exchange_type",
            "result_persistent",
            "result_cache_max",
            "result_extended",
        ),
        *no_effect(
            _CHORDS,
            "result_chord_expires",
            "result_chord_retry_interval",
            "result_chord_join_timeout",
        ),
        *lost(
            "an errback of a chord is called once: link one to each task of the header.",
            "task_allow_error_cb_on_chord_header",
        ),
        *lost(
            "give each task of a chain its `priority`.",
            "task_inherit_parent_priority",
        ),
        # Tasks.
        setting("task_default_queue", "queue", text),
        special(
            "task_default_priority",
            "`priority` of `taskiq_executor`, for steps without a priority tag.",
            translations.priority,
        ),
        special(
            "task_always_eager", "`broker: memory://` of `taskiq_executor`.", translations.eager
        ),
        app_setting("task_eager_propagates", yes_or_no),
        app_setting("task_ignore_result", yes_or_no),
        app_setting("task_routes", anything),
        app_setting("timezone", anything),
        app_setting("enable_utc", yes_or_no),
        special(
            "task_acks_late",
            "With `task_reject_on_worker_lost`, `worker_lost: retry` of `taskiq_executor`. Alone "
            "it changes nothing: a message is acknowledged once its task has started. Of a task of "
            "your own, warned of: its result is an error if its worker dies.",
            translations.worker_lost,
        ),
        special(
            "task_reject_on_worker_lost",
            "With `task_acks_late`, `worker_lost: retry` of `taskiq_executor`.",
            translations.worker_lost,
        ),
        special(
            "task_retry_on_worker_lost",
            "`worker_lost: retry` of `taskiq_executor`.",
            translations.worker_lost,
        ),
        *no_effect(
            _STARTED_ONCE,
            "task_acks_on_failure_or_timeout",
            "task_acks_on_failure",
            "task_acks_on_timeout",
        ),
        worker_option("task_time_limit", "time_limit", seconds),
        worker_option("task_soft_time_limit", "soft_time_limit", seconds),
        special(
            "task_annotations",
            "Read by the object that `make_app` returns, for tasks of your own. Time limits in the "
            'annotations for "*" are `--time-limit` and `--soft-time-limit` of `dagster-taskiq '
            "worker start` as well. Steps have none of the others.",
            translations.annotations,
        ),
        special("task_queues", "`--queue` of `dagster-taskiq worker start`.", translations.queues),
        *no_effect(_PRIORITIES, "task_queue_max_priority"),
        *lost(_STRAIGHT, "worker_direct"),
        *no_effect(
            _STRAIGHT,
            "task_create_missing_queues",
            "task_create_missing_queue_type",
            "task_create_missing_queue_exchange_type",
            "task_default_delivery_mode",
            "task_default_queue_type",
            "task_default_exchange",
            "task_default_exchange_type",
            "task_default_routing_key",
            "worker_detect_quorum_queues",
        ),
        *lost(_NO_RATES, "task_default_rate_limit"),
        *no_effect(_NO_RATES, "worker_disable_rate_limits"),
        *no_effect(
            _ALWAYS_THERE,
            "task_track_started",
            "task_store_eager_result",
            "task_store_errors_even_if_ignored",
        ),
        *no_effect(
            "a task that cannot be sent fails at once, with what to do about it; a run that has "
            "begun waits for its broker.",
            "task_publish_retry",
            "task_publish_retry_policy",
        ),
        Setting("task_serializer", Fate.NO_EFFECT, OWN_FORMAT, translations.serializer),
        # The worker.
        special(
            "imports",
            "`include` of `taskiq_executor`, and of `worker start`.",
            translations.modules,
        ),
        special(
            "include",
            "`include` of `taskiq_executor`, and of `worker start`.",
            translations.modules,
        ),
        special(
            "worker_concurrency",
            "`--concurrency` of `dagster-taskiq worker start`.",
            translations.concurrency,
        ),
        special(
            "worker_pool",
            "`--concurrency 1` for `solo`; any other is the pool of child processes.",
            translations.pool,
        ),
        worker_option("worker_max_tasks_per_child", "max_tasks_per_child", count),
        worker_option("worker_max_memory_per_child", "max_memory_per_child", count, " In KiB."),
        *no_effect(
            ONE_AT_A_TIME,
            "worker_prefetch_multiplier",
            "worker_disable_prefetch",
            "worker_enable_prefetch_count_reduction",
            "worker_eta_task_limit",
        ),
        *no_effect(
            _FORK_SERVER,
            "worker_pool_start_method",
            "worker_pool_putlocks",
            "worker_pool_restarts",
            "worker_proc_alive_timeout",
            "worker_lost_wait",
        ),
        *lost(
            "the first signal lets what runs finish; for how long is `--drain-timeout` of "
            "dagster-taskiq worker start.",
            "worker_soft_shutdown_timeout",
            "worker_enable_soft_shutdown_on_idle",
        ),
        *no_effect(
            "a task goes on while the broker cannot be reached, and is not started a second time.",
            "worker_cancel_long_running_tasks_on_connection_loss",
            "worker_deduplicate_successful_tasks",
        ),
        *no_effect(REVOKED, "worker_state_db"),
        *lost(_OWN_LOGS, "worker_log_format", "worker_task_log_format"),
        *no_effect(
            _OWN_LOGS,
            "worker_hijack_root_logger",
            "worker_log_color",
            "worker_log_datefmt",
            "worker_redirect_stdouts",
            "worker_redirect_stdouts_level",
            "worker_task_log_datefmt",
        ),
        *lost(_OWN_WORKER, "worker_agent", "worker_autoscaler", "worker_consumer", "worker_timer"),
        *no_effect(
            _OWN_WORKER,
            "worker_timer_precision",
        ),
        *no_effect(
            "workers answer `dagster-taskiq status` and `dagster-taskiq worker terminate`, and "
            "stop what is cancelled, in any case.",
            "worker_enable_remote_control",
        ),
        *lost(NO_EVENTS, "worker_send_task_events", "task_send_sent_event"),
        *no_effect(
            NO_EVENTS,
            "event_queue_expires",
            "event_queue_ttl",
            "event_queue_prefix",
            "event_queue_exclusive",
            "event_queue_durable",
            "event_serializer",
            "event_exchange",
        ),
        *no_effect(
            _NO_REMOTE_QUEUES,
            "control_queue_ttl",
            "control_queue_expires",
            "control_queue_exclusive",
            "control_queue_durable",
            "control_exchange",
        ),
        # Periodic tasks.
        special(
            "beat_schedule",
            f"Read by the object that `make_app` returns: {OWN_BEAT}",
            translations.beat_schedule,
        ),
        *lost(
            "the schedules of another class, such as django-celery-beat's, are not read. Make "
            "them with `schedule_by_cron` of taskiq (dagster_taskiq.app.schedule_source), or write "
            "them into `beat_schedule`.",
            "beat_scheduler",
        ),
        *no_effect(
            "a scheduler looks at all schedules once a second.",
            "beat_max_loop_interval",
        ),
        *no_effect(
            "what was sent is remembered by the server of the backend.",
            "beat_schedule_filename",
            "beat_sync_every",
        ),
        *no_effect(
            "a scheduler has no remote control.",
            "beat_enable_remote_control",
            "beat_remote_control_max_tick_age",
        ),
        *lost(
            "what was due while no scheduler ran is left out, however short that was; and what "
            "waited for a server is sent, however late. Give such entries the option `expires`.",
            "beat_cron_starting_deadline",
        ),
        # Parts of Celery that are not here.
        *refused(
            SIGNING,
            "security_certificate",
            "security_cert_store",
            "security_key",
            "security_key_password",
            "security_digest",
        ),
        *no_effect(
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
        backend_option("redis_backend_health_check_interval", "health_check_interval", seconds),
        backend_option("redis_client_name", "client_name", text),
        *refused(
            "put user and password into the URL, e.g. from the environment with `backend: "
            "{env: NAME}`.",
            "redis_backend_credential_provider",
        ),
        *lost(_NO_DAEMON, "worker_logfile", "worker_pidfile", "worker_umask", "worker_executable"),
        *refused(
            "start the worker as the user it is to run as (su, `User=` of systemd, the container's "
            "user).",
            "worker_uid",
            "worker_gid",
        ),
    )
)
