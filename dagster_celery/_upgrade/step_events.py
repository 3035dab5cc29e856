"""What the log of a run has about its steps, as dagster-celery and Dagster write it."""

import re

from dagster import DagsterEventType

#: What the run loop of dagster-celery writes into the log of a run for each step that it sends.
SENT_STEP = re.compile(r'Submitting celery task for step "(?P<step>.*)" to queue "(?P<queue>.*)"\.')

#: Events with which an attempt at a step begins: the first one, and any later one.
STEP_BEGINS = frozenset({DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED})

#: Events after which an attempt at a step has ended.
STEP_ENDS = frozenset(
    {
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.STEP_SKIPPED,
    }
)

#: Events that are not of the step itself, and that no run loop needs to hear of.
OF_THE_ENGINE = frozenset(
    {
        DagsterEventType.ENGINE_EVENT,
        DagsterEventType.STEP_WORKER_STARTING,
        DagsterEventType.STEP_WORKER_STARTED,
    }
)
