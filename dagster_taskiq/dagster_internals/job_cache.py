"""A cache for jobs, and for what is made of a job and a run's config, until these change."""

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dagster import JobDefinition

from dagster_taskiq.settings.env import copy_environment

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Entry(Generic[T]):
    #: Code that is loaded anew is another definition, which may differ.
    job: JobDefinition | None
    run_config: Mapping[str, Any] | None
    #: Config may refer to it.
    environment: Mapping[bytes, bytes]
    others: tuple[object, ...]
    made: T


class JobCache(Generic[T]):
    """Keeps the few things of one kind that were used last."""

    def __init__(self, most: int) -> None:
        """Keep nothing yet.

        Args:
            most: how many are kept.
        """
        self._most = most
        self._entries: list[_Entry[T]] = []

    def __len__(self) -> int:
        """Return how many are kept now."""
        return len(self._entries)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._entries.clear()

    def get(
        self,
        job: JobDefinition | None,
        run_config: Mapping[str, Any] | None,
        make: Callable[[], T],
        *others: object,
    ) -> T:
        """Return what was made of these, or make it now.

        Args:
            job: the job, as it is loaded in this process; ``None`` if it is that which is made.
            run_config: the run's config, which may be written to afterwards.
            make: makes it.
            others: what else it is made of, compared as equal or not.

        Raises:
            whatever ``make`` raises; then nothing is kept.
        """
        environment = copy_environment(os.environ)
        for entry in self._entries:
            if (
                entry.job is job
                and entry.others == others
                and entry.run_config == run_config
                and entry.environment == environment
            ):
                self._entries.remove(entry)
                break
        else:
            entry = _Entry(job, copy.deepcopy(run_config), environment, others, make())
        self._entries.insert(0, entry)
        del self._entries[self._most :]
        return entry.made
