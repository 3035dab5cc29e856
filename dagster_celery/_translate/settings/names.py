"""The two names of a setting of Celery's: today's in lower case, and the old one in upper case.

Celery 4 renamed its settings, and still reads the old names. Most follow a rule by the part before
the first underscore; ``_IRREGULAR`` has the others.
"""

from collections.abc import Iterable, Mapping

#: The first part of a new name, and what the old one has in its place.
_INSTEAD = {"task_": "CELERY_", "worker_": "CELERYD_", "beat_": "CELERYBEAT_"}

#: Groups of settings whose old names are the new ones with CELERY_ before them.
_WITH_CELERY = (
    "accept_content",
    "imports",
    "include",
    "timezone",
    "cache_",
    "couchbase_",
    "arangodb_",
    "mongodb_",
    "event_",
    "redis_",
    "result_",
    "elasticsearch_",
    "security_",
)

#: New names whose old one follows no rule.
_IRREGULAR = {
    "database_engine_options": "CELERY_RESULT_ENGINE_OPTIONS",
    "database_short_lived_sessions": "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
    "database_table_names": "CELERY_RESULT_DB_TABLENAMES",
    "database_url": "CELERY_RESULT_DBURI",
    "result_accept_content": "RESULT_ACCEPT_CONTENT",
    "result_cache_max": "CELERY_MAX_CACHED_RESULTS",
    "result_expires": "CELERY_TASK_RESULT_EXPIRES",
    "task_compression": "CELERY_MESSAGE_COMPRESSION",
    "task_eager_propagates": "CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    "task_protocol": "CELERY_TASK_PROTOCOL",
    "task_publish_retry": "CELERY_TASK_PUBLISH_RETRY",
    "task_publish_retry_policy": "CELERY_TASK_PUBLISH_RETRY_POLICY",
    "task_send_sent_event": "CELERY_SEND_TASK_SENT_EVENT",
    "task_serializer": "CELERY_TASK_SERIALIZER",
    "task_soft_time_limit": "CELERYD_TASK_SOFT_TIME_LIMIT",
    "task_time_limit": "CELERYD_TASK_TIME_LIMIT",
    "worker_direct": "CELERY_WORKER_DIRECT",
    "worker_disable_rate_limits": "CELERY_DISABLE_RATE_LIMITS",
    "worker_enable_remote_control": "CELERY_ENABLE_REMOTE_CONTROL",
    "worker_lost_wait": "CELERYD_WORKER_LOST_WAIT",
    "worker_redirect_stdouts": "CELERY_REDIRECT_STDOUTS",
    "worker_redirect_stdouts_level": "CELERY_REDIRECT_STDOUTS_LEVEL",
    "worker_send_task_events": "CELERY_SEND_EVENTS",
}


def old_name(name: str) -> str:
    """Return the upper-case name of a setting, which Celery reads as well."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    for first, instead in _INSTEAD.items():
        if name.startswith(first):
            return instead + name.removeprefix(first).upper()
    return f"CELERY_{name.upper()}" if name.startswith(_WITH_CELERY) else name.upper()


def new_names(names: Iterable[str]) -> Mapping[str, str]:
    """Return settings by their old names."""
    return {old_name(name): name for name in names}
