"""Reporting in the event log of a run that servers delete keys to make room."""

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
        client: the connection to the servers.
        instance: where the run is.
        run: the run that depends on the servers.

    Returns:
        What each server has evicted so far, by URL; nothing if one does not answer.
    """
    evictions = _read_evictions(client)
    if not evictions:
        return evictions
    logs = instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
    messages = {log.dagster_event.message for log in logs if log.dagster_event is not None}
    for each in evictions.values():
        if each.warning not in messages:
            instance.report_engine_event(each.warning, run)
    return evictions


def describe_evictions(client: StepClient, before: Mapping[str, Eviction]) -> str:
    """Return how much the servers have evicted since an earlier look, to explain a loss.

    Args:
        client: the connection to the servers.
        before: what they had evicted then, by URL.

    Returns:
        Sentences, with a space before each; empty if nothing has been evicted.
    """
    now = _read_evictions(client)
    sentences = [each.since(before.get(server)) for server, each in now.items()]
    return "".join(f" {sentence}" for sentence in sentences if sentence)


def _read_evictions(client: StepClient) -> Mapping[str, Eviction]:
    try:
        return client.evictions()
    except ServerUnavailableError:  # reported by the next call that needs an answer
        return {}
