"""Tags that set the queue and priority of a step or a run, and how each is read.

The names under ``dagster-celery/`` are read as well; if both are set, the new one wins.
"""

from collections.abc import Mapping
from contextlib import suppress

from dagster_taskiq.errors import ConfigError

#: Dagster's own tag for the priority of a step, or of a run in its queue: an integer, 0 if it is
#: not set.
DAGSTER_PRIORITY_TAG = "dagster/priority"

#: The queue in which a step waits; as a tag of a run, that in which the launched run waits.
QUEUE_TAG = "dagster-taskiq/queue"
#: The priority of a step, an integer. Higher runs first. It is added to the run's priority.
PRIORITY_TAG = "dagster-taskiq/priority"
#: The priority of a launched run, an integer, as a tag of the run. It is added to that of each of
#: its steps.
RUN_PRIORITY_TAG = "dagster-taskiq/run_priority"
#: The id of the task that executes a run, as a tag of the run that the run launcher writes.
TASK_ID_TAG = "dagster-taskiq/task_id"

#: The older name of each tag, as dagster-celery projects have them in their code.
OLDER_NAMES: Mapping[str, str] = {
    QUEUE_TAG: "dagster-celery/queue",
    PRIORITY_TAG: "dagster-celery/priority",
    RUN_PRIORITY_TAG: "dagster-celery/run_priority",
    TASK_ID_TAG: "dagster-celery/task_id",
}


def read_tag(tags: Mapping[str, str], tag: str) -> str | None:
    """Return the value of ``tag`` or of its older name in ``tags``; ``None`` if neither is set."""
    value = tags.get(tag)
    return value if value is not None else tags.get(OLDER_NAMES[tag])


def celery_task_of(tags: Mapping[str, str]) -> str | None:
    """Return the id of Celery's task of a run that dagster-celery's own launcher has sent.

    ``None`` for a run that was sent here since, or that has no task at all.
    """
    return None if TASK_ID_TAG in tags else tags.get(OLDER_NAMES[TASK_ID_TAG])


def read_priority(tags: Mapping[str, str], tag: str, default: int = 0) -> int:
    """Return the priority in ``tag`` (or its older name); else Dagster's own, above ``default``.

    Dagster's own priority counts from ``default``, since Dagster takes 0 for what has no tag: what
    has a positive one runs before what has no tag, and what has a negative one after it.

    Args:
        tags: all tags of a step or run.
        tag: the tag of this package, which is not added to anything.
        default: the priority of what has no tag.

    Raises:
        ConfigError: the value of ``tag`` is not an integer. Dagster's own may be anything.
    """
    # As Dagster reads it: what is no integer counts as 0.
    with suppress(ValueError):
        default += int(tags.get(DAGSTER_PRIORITY_TAG, 0))
    return read_int_tag(tags, tag, default)


def read_int_tag(tags: Mapping[str, str], tag: str, default: int = 0) -> int:
    """Return the integer in ``tag`` (or its older name), or ``default`` if neither is set.

    The older name of the run's priority counts as 0 if it has no integer, as in dagster-celery; see
    :func:`describe_unread_priority`.

    Raises:
        ConfigError: the value is not an integer; the text names the tag and the value.
    """
    value = read_tag(tags, tag)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        if tag == RUN_PRIORITY_TAG and describe_unread_priority(tags):
            return 0
        name = tag if tag in tags else OLDER_NAMES[tag]
        raise ConfigError(
            f'The tag "{name}" must be an integer, but it is {value!r}. Higher runs first; '
            "negative numbers are allowed."
        ) from None


def describe_unread_priority(tags: Mapping[str, str]) -> str:
    """Return a sentence on a run's older priority tag whose value counts as 0; else nothing."""
    older = OLDER_NAMES[RUN_PRIORITY_TAG]
    if RUN_PRIORITY_TAG in tags or older not in tags:
        return ""
    try:
        int(tags[older])
    except ValueError:
        return f'The tag "{older}" counts as 0: {tags[older]!r} is no integer. Correct it.'
    return ""
