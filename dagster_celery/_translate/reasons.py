"""Reasons that rows of several tables give."""

OUTAGES = (
    "workers wait for a broker that cannot be reached, and so do runs that have begun, for some "
    'minutes. How long the first contact may take is "connect_timeout" of taskiq_executor.'
)
IN_PROCESSES = (
    "has no effect here: tasks run in child processes, one for each that runs at the same time, so "
    "choose a concurrency that cores and memory allow."
)
OWN_BEAT = (
    "`dagster-celery scheduler start -A APP` sends the periodic tasks. Run it beside the workers, "
    "in place of `celery beat`."
)
NO_EVENTS = (
    "there is no stream of events, so Flower has nothing to show. `dagster-taskiq monitor` shows "
    "what waits, runs and has ended, and with --celery-names has the metrics of Flower's boards."
)
ONE_AT_A_TIME = "a worker takes one message for each free slot, and none ahead."
ONE_TASK = (
    'is "--concurrency 1" of dagster-taskiq worker start: one task at a time, in a child process.'
)
REVOKED = "the backend records what was revoked, and every worker reads it there."
