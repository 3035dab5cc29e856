"""The definitions of a few jobs, kept from one step to the next, for runs that take turns."""

import inspect
from collections.abc import Callable
from typing import Any

import wrapt
from dagster import JobDefinition
from dagster._core.definitions.reconstruct import ReconstructableJob

from dagster_taskiq.dagster_internals.job_cache import JobCache
from dagster_taskiq.dagster_internals.part import DagsterPart

#: How many jobs are kept: a worker has the steps of few jobs at a time.
MOST_JOBS = 4


def _check() -> str:
    method = inspect.getattr_static(ReconstructableJob, "get_definition")
    if not hasattr(method, "cache_parameters"):
        return "it keeps nothing"
    parameters = list(inspect.signature(method).parameters)
    return "" if parameters == ["self"] else f"it has the parameters {parameters}"


PART = DagsterPart(
    name="kept job definitions",
    touches="ReconstructableJob.get_definition (wrapped)",
    why=(
        "Dagster keeps the definition of one job in a process. Where steps of two jobs, or of two "
        "selections of assets, take turns in a child, it makes the job anew for each step, and "
        "what else is kept of the job is of no use any more. A child keeps a few, for as long as "
        "the environment is the same."
    ),
    otherwise="The definition of a job is made anew after a step of another one.",
    check=_check,
)


def install() -> bool:
    """Let this process keep the definitions of a few jobs, from now on.

    Returns:
        Whether Dagster is as expected; otherwise nothing is changed.
    """
    if PART.find_problem():
        return False
    kept = KeptDefinitions()

    def get_definition(
        wrapped: Callable[[], JobDefinition],
        job: ReconstructableJob,
        _args: tuple[Any, ...],
        _kwargs: dict[str, Any],
    ) -> JobDefinition:
        return kept.get(job, wrapped)

    wrapt.wrap_function_wrapper(ReconstructableJob, "get_definition", get_definition)
    return True


class KeptDefinitions:
    """What Dagster has loaded for the few jobs that were used last."""

    def __init__(self) -> None:
        # The code that defines a job may read the environment, as its config may refer to it.
        self._cache: JobCache[JobDefinition] = JobCache(MOST_JOBS)

    def get(self, job: ReconstructableJob, load: Callable[[], JobDefinition]) -> JobDefinition:
        """Return what was loaded for a job, or load it now.

        Args:
            job: where its code is, what of it is selected, and what its repository was loaded with.
            load: Dagster's own method, which keeps what it has returned last.

        Raises:
            whatever ``load`` raises; then nothing is kept.
        """
        return self._cache.get(None, None, load, job)
