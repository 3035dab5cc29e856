"""The jobs of the project."""

import os

from dagster import job, op, repository


@op(config_schema={"name": str})
def get_environment(context) -> str | None:  # type: ignore[no-untyped-def]
    """Return an environment variable of the process that the step is."""
    value: str | None = os.environ.get(context.op_config["name"])
    return value


@job
def demo_job() -> None:
    """Has one step. It is launched, and never executed."""
    get_environment()


@repository
def project() -> list[object]:
    """Return the jobs whose libraries are there."""
    jobs: list[object] = [demo_job]
    try:
        from dagster_celery_docker import celery_docker_executor  # noqa: PLC0415
    except ModuleNotFoundError:
        return jobs

    @job(executor_def=celery_docker_executor)
    def docker_celery_job() -> None:
        """Has one step, which is a container."""
        get_environment()

    return [*jobs, docker_celery_job]
