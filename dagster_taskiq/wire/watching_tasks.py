"""The tasks that only watch a step, which runs in a container or a Kubernetes Job."""

from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.step_task_ids import first_incarnation

#: The task of dagster-celery-docker, and that of dagster-celery-k8s. Both have had these names in
#: every release.
EXECUTE_STEP_DOCKER = "execute_step_docker"
EXECUTE_STEP_K8S_JOB = "execute_step_k8s_job"

WATCHING_TASKS = frozenset({EXECUTE_STEP_DOCKER, EXECUTE_STEP_K8S_JOB})


def watches_a_step(task: Task) -> bool:
    """Return whether a task only watches a step that runs elsewhere, so that another may."""
    return task.name in WATCHING_TASKS


def is_to_end_its_step(task: Task) -> bool:
    """Return whether a task is not to be cancelled when its run is stopped.

    It waits, and nobody watches what an earlier task of the same attempt has started. It ends that
    when it finds that its run is over.
    """
    return (
        task.state is TaskState.WAITING
        and watches_a_step(task)
        and first_incarnation(task.id) != task.id
    )
