"""The one shape of each place that leans on Dagster's private parts."""

from collections.abc import Callable
from dataclasses import dataclass


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
