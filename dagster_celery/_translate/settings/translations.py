"""Settings whose value depends on others, or becomes several things.

Each function takes the draft and the setting that was given, and returns the rest of a sentence, as
:data:`dagster_celery._translate.settings.kinds.Translate` describes.
"""

from collections.abc import Mapping

from dagster_celery._translate.connections.options import tls_options, transport_options
from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.reasons import IN_PROCESSES, ONE_TASK, OWN_BEAT
from dagster_celery._translate.settings.draft import Draft, Given
from dagster_celery._translate.settings.kinds import IS_THE_DEFAULT, Translate
from dagster_celery._translate.values import (
    LONGEST_TTL_SECONDS,
    count,
    kept_for,
    login,
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
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

#: Messages and results are written in a format of the engine.
OWN_FORMAT = "messages and results have a format of their own, which is the same everywhere."
#: Why signing is refused.
SIGNING = (
    "messages are not signed here. Use a broker with TLS and a user of its own instead "
    "(amqps://USER:PASSWORD@HOST, rediss://:PASSWORD@HOST), and leave the security settings out."
)
#: Added for a RabbitMQ whose certificate is checked.
_NAMES_HOST = (
    " The server's certificate has to name the host of the URL, which Celery does not ask for: "
    'if it has another name, write "broker_options: {server_name_indication: NAME}".'
)


def url_of(kind: str) -> Translate:
    """Return what translates a URL of the broker or of the backend, which is in the draft."""

    def translate(draft: Draft, _: Given) -> str:
        if kind not in draft.settings:
            return "is empty, which changes nothing. Leave it out."
        url = redact(str(draft.settings[kind]))
        return f'is "{kind}: {url}" of taskiq_executor.'

    return translate


def options_of(kind: str) -> Translate:
    """Return what translates the transport options of the broker or of the backend."""
    becomes = f"{kind}_options"

    def translate(draft: Draft, given: Given) -> str:
        options = mapping(given.value)
        prefix = options.pop("global_keyprefix", None)
        server = draft.server if kind == "broker" else draft.backend_server
        found, remarks = transport_options(options, server, given.subject, becomes)
        draft.add_options(becomes, found)
        draft.remarks += remarks
        if prefix:
            draft.remark(f"{given.subject}.global_keyprefix", _prefix(draft, kind, text(prefix)))
        return "" if given.value else IS_THE_DEFAULT

    return translate


def _prefix(draft: Draft, kind: str, prefix: str) -> str:
    # The engine has one prefix for broker and backend; that of the broker counts.
    if kind == "backend" and draft.settings.setdefault("prefix", prefix) != prefix:
        return "has no effect, since the broker has another one: there is one prefix for both."
    draft.settings["prefix"] = prefix
    return f'is "prefix: {prefix}" of taskiq_executor.'


def tls_of(kind: str) -> Translate:
    """Return what translates the TLS mapping of the broker or of the backend."""
    becomes = f"{kind}_options"

    def translate(draft: Draft, given: Given) -> str:
        if not given.value:
            return IS_THE_DEFAULT
        server = draft.server if kind == "broker" else draft.backend_server
        if server is Server.SQS:
            return "has no effect here, as in Celery: SQS is asked by HTTPS. Leave it out."
        if server in (Server.NONE, Server.SOCKET):
            sentence = f"has no effect here: no {kind} that uses TLS is given with it."
            # A socket is on this machine; of a broker that is named elsewhere, nothing is known.
            return sentence if server is Server.NONE else draft.loss(given, sentence)
        if given.value is True and server is not Server.RABBITMQ:
            text = "has no effect, as in Celery: on Redis it has to be a mapping. Leave it out."
            return draft.loss(given, text)
        options, remarks = tls_options(given.value, server, given.subject, becomes)
        draft.add_options(becomes, options)
        draft.remarks += remarks
        scheme = scheme_of(str(draft.settings[kind]))
        checks = server is Server.RABBITMQ and options.get("verify") != "verify_none"
        named = "server_name_indication" in options or not checks
        return f'is "{kind}: {scheme}://..." of taskiq_executor.{"" if named else _NAMES_HOST}'

    return translate


def _retried(draft: Draft) -> bool:
    late, rejects, retries = (
        yes_or_no(draft.value(name, False))
        for name in ("task_acks_late", "task_reject_on_worker_lost", "task_retry_on_worker_lost")
    )
    return retries or (late and rejects)


def beat_schedule(draft: Draft, given: Given) -> str:
    """Keep the periodic tasks for the app, whose scheduler sends them."""
    if not given.value:
        return IS_THE_DEFAULT
    draft.app[given.name] = mapping(given.value)
    return f"is served: {OWN_BEAT}"


def worker_lost(draft: Draft, given: Given) -> str:
    """Translate the settings that together decide if a step whose worker dies is retried."""
    if not yes_or_no(given.value):
        return (
            "has no effect here: a message is acknowledged once its task has started, and a step "
            "whose worker dies fails; the op's RetryPolicy decides whether it is tried again."
        )
    if _retried(draft):
        draft.settings["worker_lost"] = OnWorkerLost.RETRY
        return 'is "worker_lost: retry" of taskiq_executor.'
    return draft.loss(
        given,
        "alone has no effect here: a message is acknowledged once its task has started, and a step "
        "whose worker dies fails; the op's RetryPolicy decides whether it is tried again. To have "
        'it tried again in any case, write "worker_lost: retry" of taskiq_executor. A task of your '
        "own whose worker dies has an error as its result, and is sent again by who waits for it.",
    )


def eager(draft: Draft, given: Given) -> str:
    """Translate ``task_always_eager``; the URLs have been chosen before."""
    draft.app[given.name] = yes_or_no(given.value)
    if not draft.app[given.name]:
        return IS_THE_DEFAULT
    return 'is "broker: memory://" of taskiq_executor: the whole job runs in its own process.'


def priority(draft: Draft, given: Given) -> str:
    """Translate the default priority, which the app uses, too."""
    value = whole_number(given.value)
    draft.settings["priority"] = draft.app[given.name] = value
    return f'is "priority: {value}" of taskiq_executor, for steps without a priority tag.'


def queues(draft: Draft, given: Given) -> str:
    """Translate ``task_queues`` to the queues that a worker serves."""
    found = names(given.value)
    if not found:
        return IS_THE_DEFAULT
    draft.worker["queues"] = found
    return (
        f'is "--queue {",".join(found)}" of dagster-taskiq worker start. Exchanges, routing keys '
        "and arguments of a queue have no effect: a task goes straight to its queue."
    )


def modules(draft: Draft, given: Given) -> str:
    """Add modules to those that workers import."""
    found = names(given.value)
    draft.settings["include"] = tuple(dict.fromkeys((*draft.settings.get("include", ()), *found)))
    return f'is "include: [{", ".join(found)}]" of taskiq_executor.'


def _is_solo(draft: Draft) -> bool:
    return "solo" in str(draft.value("worker_pool", ""))


def concurrency(draft: Draft, given: Given) -> str:
    """Translate the number of tasks at a time."""
    if _is_solo(draft):
        return "has no effect with `worker_pool: solo`, which is one task at a time."
    if str(given.value).lower() == "auto":
        return "has no effect here: as many tasks as there are cores is the default. Leave it out."
    found = count(given.value)
    if found is None:
        return IS_THE_DEFAULT
    draft.worker["concurrency"] = found
    return f'is "--concurrency {found}" of dagster-taskiq worker start.'


#: What each pool of Celery's becomes, as the rest of a sentence.
_POOLS: Mapping[str, str] = {
    "prefork": "has no effect here: tasks run in child processes in any case. Leave it out.",
    "processes": "has no effect here: tasks run in child processes in any case. Leave it out.",
    "solo": ONE_TASK,
}


def pool(draft: Draft, given: Given) -> str:
    """Translate the pool: ``solo`` is one child process, all others are the pool of them."""
    text(given.value)
    if _is_solo(draft):
        draft.worker["concurrency"] = 1
        return ONE_TASK
    known = _POOLS.get(str(given.value))
    return draft.loss(given, IN_PROCESSES) if known is None else known


def expires(draft: Draft, given: Given) -> str:
    """Translate how long results are kept."""
    found = draft.settings["result_ttl"] = kept_for(given.value)
    longest = " Nothing is kept for longer." if found == LONGEST_TTL_SECONDS else ""
    return f'is "result_ttl: {plain(found)}" of taskiq_executor, in seconds.{longest}'


def login_method(draft: Draft, given: Given) -> str:
    """Translate the login method of RabbitMQ."""
    if draft.server is not Server.RABBITMQ:
        return "has no effect here: the broker is no RabbitMQ. Leave it out."
    found = login(given.value)
    if found == "plain":
        return IS_THE_DEFAULT
    draft.add_options("broker_options", {"auth": found})
    return f'is "broker_options: {{auth: {found}}}" of taskiq_executor.'


#: The annotations for all tasks that are options of a worker here.
_LIMITS = ("time_limit", "soft_time_limit")
#: The tasks that are steps and runs.
_STEPS = (EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB)
#: The annotations that change what Celery does with a step, and change nothing here.
_LOST_FOR_STEPS = ("acks_late", "rate_limit", "reject_on_worker_lost")


def annotations(draft: Draft, given: Given) -> str:
    """Translate the time limits in the annotations for all tasks; the app has the annotations."""
    if not given.value:
        return IS_THE_DEFAULT
    draft.app[given.name] = given.value
    entries = given.value if isinstance(given.value, list | tuple) else [given.value]
    by_task = [each for each in entries if isinstance(each, Mapping)]
    for_all = [mapping(each.get("*") or {}) for each in by_task]
    found = {
        name: limit
        for each in for_all
        for name, value in each.items()
        if name in _LIMITS and (limit := seconds(value)) is not None
    }
    draft.worker.update(found)
    of_steps = [each.get(name) or {} for each in by_task for name in _STEPS]
    if any(name in each for each in for_all for name in _LOST_FOR_STEPS) or any(of_steps):
        draft.remark(
            given.subject,
            "has no effect on steps here, but for time limits of all tasks: rates belong to "
            "Dagster's pools, retries to an op's RetryPolicy, limits of a step to its tags.",
            is_loss=True,
        )
    options = " ".join(
        f"--{name.replace('_', '-')} {plain(value)}" for name, value in found.items()
    )
    worker = f' It is also "{options}" of dagster-taskiq worker start.' if found else ""
    return f"is used by the app that make_app returns, for tasks of your own.{worker}"


def serializer(draft: Draft, given: Given) -> str:
    """Refuse the serializer that signs messages; any other has no effect.

    Raises:
        ConfigError: it is ``auth``.
    """
    if given.value == "auth":
        raise ConfigError(f"{given.subject} cannot be auth here: {SIGNING}")
    sentence = f"has no effect here: {OWN_FORMAT}"
    return sentence if given.value == "json" else draft.loss(given, sentence)
