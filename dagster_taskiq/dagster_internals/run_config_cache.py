"""Reading the whole config of a run once, and not again for each of the run's steps."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import wrapt
from dagster import JobDefinition
from dagster._core.system_config.objects import OpConfig, ResolvedRunConfig

from dagster_taskiq.dagster_internals.job_cache import JobCache
from dagster_taskiq.dagster_internals.part import DagsterPart

#: How many configs are kept: a worker has the steps of few runs at a time.
MOST_CONFIGS = 4

_Build = Callable[[JobDefinition, Mapping[str, object] | None], ResolvedRunConfig]


def _check() -> str:
    build = inspect.getattr_static(ResolvedRunConfig, "build")
    if not isinstance(build, staticmethod):
        return "it is no static method"
    parameters = list(inspect.signature(build.__func__).parameters)
    return "" if parameters == ["job_def", "run_config"] else f"it has the parameters {parameters}"


PART = DagsterPart(
    name="cached run config",
    touches="ResolvedRunConfig.build (wrapped)",
    why=(
        "Before it executes a step, Dagster checks the config of the whole job and fills in its "
        "defaults, for every op: in a run of two thousand steps that takes longer than a small "
        "step. A child keeps the result for the steps that follow, as long as nothing that it is "
        "made of has changed. Each step gets its own copy of all that its code may write to."
    ),
    otherwise="The config of the whole job is read for each step.",
    check=_check,
)


def install() -> bool:
    """Let this process keep what it has made of a run's config, from now on.

    Returns:
        Whether Dagster is as expected; otherwise nothing is changed.
    """
    if PART.find_problem():
        return False
    cache = RunConfigCache()

    def build(
        wrapped: _Build, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ResolvedRunConfig:
        return cache.build(wrapped, *args, **kwargs)

    wrapt.wrap_function_wrapper(ResolvedRunConfig, "build", build)
    return True


class RunConfigCache:
    """The configs of the last few runs, as Dagster has read them."""

    def __init__(self) -> None:
        self._cache: JobCache[ResolvedRunConfig] = JobCache(MOST_CONFIGS)

    def build(
        self,
        build: _Build,
        job_def: JobDefinition,
        run_config: Mapping[str, object] | None = None,
    ) -> ResolvedRunConfig:
        """Return a copy of what ``build`` makes of a job and a run's config.

        Args:
            build: Dagster's ``ResolvedRunConfig.build``, which is called if nothing is kept.
            job_def: as for ``build``.
            run_config: as for ``build``.

        Raises:
            whatever ``build`` raises; then nothing is kept.
        """
        return _copy_of(self._cache.get(job_def, run_config, lambda: build(job_def, run_config)))


def _copy_of(config: ResolvedRunConfig) -> ResolvedRunConfig:
    ops = {name: op if _is_bare(op) else copy.deepcopy(op) for name, op in config.ops.items()}
    others = {name: getattr(config, name) for name in config._fields if name != "ops"}
    return config._replace(ops=ops, **copy.deepcopy(others))


def _is_bare(config: OpConfig) -> bool:
    """Whether nothing in the config of an op could be written to."""
    return not (config.config or config.inputs or config.outputs.config)
