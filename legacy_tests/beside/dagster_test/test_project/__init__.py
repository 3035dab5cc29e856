"""The project that Dagster's own tests of its libraries run, as far as they ask for it.

It has jobs of the names that they use, and no image. Steps leave their outputs in the directory of
the Dagster instance, where Dagster's own project leaves them in S3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

_HERE = Path(__file__).parent
_CODE = str(_HERE / "jobs.py")
_REPOSITORY = "project"


def get_test_project_docker_image() -> str:
    """Return the name of an image. What stands in for Docker needs none."""
    return "dagster-test-project:1"


def find_local_test_image(docker_image: str) -> None:
    """Do nothing: an image that is not there need not be built."""


def build_and_tag_test_image(tag: str) -> None:
    """Build that image."""
    raise NotImplementedError(f"No test needs the image {tag} to be built.")


def get_buildkite_registry_config() -> dict[str, str]:
    """Return the registry that images are fetched from on Dagster's own machines."""
    raise NotImplementedError("These are not Dagster's own machines.")


def get_test_project_environments_path() -> str:
    """Return the directory with the configurations of the jobs."""
    return str(_HERE / "environments")


def get_test_project_recon_job(
    job_name: str, container_image: str | None = None
) -> ReconstructableJob:
    """Return one of the jobs, as other processes load it."""
    repository = ReconstructableRepository.for_file(
        _CODE, _REPOSITORY, container_image=container_image
    )
    return repository.get_reconstructable_job(job_name)


@contextmanager
def get_test_project_workspace_and_remote_job(
    instance: DagsterInstance, job_name: str, container_image: str | None = None
) -> Iterator[Any]:
    """Yield a workspace with the project, and one of its jobs as the web server has it."""
    origin = LoadableTargetOrigin(python_file=_CODE, attribute=_REPOSITORY)
    with in_process_test_workspace(instance, origin, container_image) as workspace:
        location = workspace.get_code_location(workspace.code_location_names[0])
        yield workspace, location.get_repository(_REPOSITORY).get_full_job(job_name)
