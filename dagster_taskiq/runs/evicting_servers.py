"""What a run's event log says of servers that delete keys to make room."""

from collections.abc import Mapping

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.step_client import StepClient
from dagster_taskiq.transport.eviction import Eviction


def warn_of_evictions(
    client: StepClient, instance: DagsterInstance, run: DagsterRun
) -> Mapping[str, Eviction]:
    """Write a warning for each server that evicts into the log of a run, if it is not there yet.

    Args:
        client: opens the way to the servers.
        instance: whose log it is.
        run: the run that depends on the servers.

    Returns:
        What they say of it now, by URL; nothing where one is away.
    """
    evictions = _ask(client)
    if not evictions:
        return evictions
    logs = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    said = {log.dagster_event.message for log in logs if log.dagster_event is not None}
    for each in evictions.values():
        if each.warning not in said:
            instance.report_engine_event(each.warning, run)
    return evictions


def said_of_evictions(client: StepClient, before: Mapping[str, Eviction]) -> str:
    """Return how much the servers have evicted since an earlier look, for who has lost something.

    Args:
        client: opens the way to them.
        before: what they said then, by URL.

    Returns:
        Sentences, with a space before each; empty where nothing has been evicted.
    """
    said = [each.since(before.get(server)) for server, each in _ask(client).items()]
    return "".join(f" {sentence}" for sentence in said if sentence)


def _ask(client: StepClient) -> Mapping[str, Eviction]:
    try:
        return client.evictions()
    except ServerUnavailableError:  # whoever needs an answer to go on will say so
        return {}
