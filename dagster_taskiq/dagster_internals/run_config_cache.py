"""Sparing a child the reading of a run's whole config for each of the run's steps.

Before it executes a step, Dagster checks the config of the whole job and fills in its defaults, for
every op there is: in a run of two thousand steps that takes longer than a small step itself. In a
child what came of it is kept for the steps that follow, as long as nothing that it is made of has
changed: the job as it is loaded, the run's config, the environment that it may refer to. Each step
gets its own copy of all that its code may write to.
"""

import copy
import inspect
from collections.abc import Callable, Mapping

from dagster import JobDefinition
from dagster._core.system_config.objects import OpConfig, ResolvedRunConfig

from dagster_taskiq.dagster_internals.job_cache import JobCache

#: How many configs are kept: a worker has the steps of few runs at a time.
MOST_CONFIGS = 4

_Build = Callable[[JobDefinition, Mapping[str, object] | None], ResolvedRunConfig]


def install() -> bool:
    """Let this process keep what it has made of a run's config, from now on.

    Returns:
        Whether that was possible. Where Dagster's inside is not as expected, nothing is changed.
    """
    theirs = inspect.getattr_static(ResolvedRunConfig, "build", None)
    if not isinstance(theirs, staticmethod):
        return False
    if list(inspect.signature(theirs.__func__).parameters) != ["job_def", "run_config"]:
        return False
    setattr(ResolvedRunConfig, "build", staticmethod(_keeping(theirs.__func__)))  # noqa: B010
    return True


def _keeping(build: _Build) -> _Build:
    kept: JobCache[ResolvedRunConfig] = JobCache(MOST_CONFIGS)

    def build_kept(
        job_def: JobDefinition, run_config: Mapping[str, object] | None = None
    ) -> ResolvedRunConfig:
        return _copy_of(kept.get(job_def, run_config, lambda: build(job_def, run_config)))

    return build_kept


def _copy_of(config: ResolvedRunConfig) -> ResolvedRunConfig:
    ops = {name: op if _is_bare(op) else copy.deepcopy(op) for name, op in config.ops.items()}
    others = {name: getattr(config, name) for name in config._fields if name != "ops"}
    return config._replace(ops=ops, **copy.deepcopy(others))


def _is_bare(config: OpConfig) -> bool:
    """Whether nothing in the config of an op could be written to."""
    return not (config.config or config.inputs or config.outputs.config)
