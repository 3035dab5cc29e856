"""The task of dagster-celery-k8s: it runs a step in a Kubernetes Job, and waits for that.

The name of the Job is that of the attempt at its step, and the library goes on with a Job that is
there. It ends the Job itself, soon after the run has been cancelled. The Job has to be deleted here
if its task is stopped, because that takes too long or a time limit is over; and if the run was over
before the task has started, since the library does not look for a Job then.
"""

from collections.abc import Mapping
from typing import Any

from dagster_celery._step_watchers.watcher import Call, Watcher
from dagster_taskiq.errors import TaskRevokedError
from dagster_taskiq.execution.task_context import current_context

#: The name under which the library's events about a step have that of its Job.
_JOB = "Kubernetes Job name"


def _watch(call: Call, kwargs: Mapping[str, Any]) -> Any:
    """Have the library run the step, and delete its Job if the task is stopped.

    Raises:
        TaskRevokedError: the run has ended or is being cancelled, and the Job of an earlier task of
            this attempt was deleted.
    """
    # Installed where a worker has the library. And processes that only send steps need no Dagster.
    from dagster_celery._step_watchers.step_of import WatchedStep  # noqa: PLC0415

    step = WatchedStep(kwargs)
    if step.run_is_over() and _delete_job(step, kwargs, "its run is over"):
        raise TaskRevokedError(f'The run of step "{step.key}" has ended or is being cancelled.')
    try:
        return call()
    except BaseException:
        request = current_context().stop_request()
        if request is not None:
            _delete_job(step, kwargs, request.reason)
        raise


def _delete_job(step: Any, kwargs: Mapping[str, Any], why: str) -> bool:
    """Delete the Job of the current attempt at a step; return whether there is one."""
    import kubernetes  # noqa: PLC0415
    from dagster_k8s.client import DagsterKubernetesClient  # noqa: PLC0415

    names = list(step.metadata(_JOB, of_last_attempt=True))
    if not names:
        return False  # it has not got as far
    step.report(f"Deleting Kubernetes Job {names[-1]}: {why.rstrip('.')}.")
    # As the library does, which may not have done so yet.
    if kwargs.get("load_incluster_config"):
        kubernetes.config.load_incluster_config()
    else:
        kubernetes.config.load_kube_config(kwargs.get("kubeconfig_file"))
    client: Any = DagsterKubernetesClient.production_client()
    client.delete_job(job_name=names[-1], namespace=kwargs["job_namespace"])
    return True


WATCHER = Watcher(lambda request: request, _watch)
