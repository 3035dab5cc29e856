"""The one shape of each place that leans on Dagster's private parts."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import wrapt

logger = logging.getLogger("dagster_taskiq.storage")


@dataclass(frozen=True)
class DagsterPart:
    """A private part of Dagster that is replaced here, or relied on.

    Dagster may change it in any release. So it is checked before it is used, and if it is not as
    expected, Dagster's own way is taken.
    """

    #: A few words for logs and lists, such as "kept SQLite engines".
    name: str
    #: What of Dagster is replaced or used, by its dotted names.
    touches: str
    #: Why that is done.
    why: str
    #: What happens if Dagster is not as expected.
    otherwise: str
    #: Returns what is not as expected, in words; empty if all is.
    check: Callable[[], str]

    def find_problem(self) -> str:
        """Return what is not as expected in this Dagster, in words; empty if all is."""
        try:
            return self.check()
        except Exception as error:  # whatever a private part may have become
            return f"{type(error).__name__}: {error}"

    def describe(self, problem: str) -> str:
        """Return a sentence on what is not as expected, and what happens then."""
        return (
            f"Dagster is not as expected ({self.name}). {self.touches}: {problem}. {self.otherwise}"
        )

    def when_imported(self, modules: Iterable[str], replace: Callable[[ModuleType], None]) -> None:
        """Have something replaced in modules that may not be imported yet.

        Args:
            modules: their names; one that is never imported is left alone.
            replace: called with each of them once it is imported, which may be now; not called, but
                a warning logged, if the part is not as expected then.
        """

        def replace_if_expected(module: ModuleType) -> None:
            problem = self.find_problem()
            if problem:
                logger.warning("%s", self.describe(problem))
            else:
                replace(module)

        for name in modules:
            wrapt.register_post_import_hook(replace_if_expected, name)
