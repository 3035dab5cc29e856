"""The task of dagster-celery-k8s: it runs a step in a Kubernetes Job, and waits for that.

The name of the Job is that of the attempt at its step, and the library goes on with a Job that is
there. It ends the Job itself, soon after the run has been cancelled. Only if its task is stopped,
because that takes too long or a time limit is over, the Job has to be deleted here.
"""

from collections.abc import Mapping
from typing import Any

from dagster_celery._step_watchers.watcher import Call, Watcher
from dagster_taskiq.execution.task_context import current_context

#: The name under which the library's events about a step have that of its Job.
_JOB = "Kubernetes Job name"


def _watch(call: Call, kwargs: Mapping[str, Any]) -> Any:
    """Have the library run the step, and delete its Job if the task is stopped."""
    try:
        return call()
    except BaseException:
        request = current_context().stop_request()
        if request is not None:
            _delete_job(kwargs, request.reason)
        raise


def _delete_job(kwargs: Mapping[str, Any], why: str) -> None:
    # Installed where a worker has the library, which has loaded the cluster's configuration.
    from dagster_k8s.client import DagsterKubernetesClient  # noqa: PLC0415

    from dagster_celery._step_watchers.step_of import WatchedStep  # noqa: PLC0415

    step = WatchedStep(kwargs)
    names = list(step.metadata(_JOB))
    if not names:
        return  # it has not got as far
    step.report(f"Deleting Kubernetes Job {names[-1]}: {why.rstrip('.')}.")
    client: Any = DagsterKubernetesClient.production_client()
    client.delete_job(job_name=names[-1], namespace=kwargs["job_namespace"])


WATCHER = Watcher(lambda request: request, _watch)
