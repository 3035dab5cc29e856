"""Servers that delete keys when their memory is full."""

from dataclasses import dataclass

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Eviction:
    """How a server makes room when its memory is full: by deleting any key."""

    #: Its URL, without a password.
    server: str
    #: Its ``maxmemory-policy``.
    policy: str
    #: How much memory it fills before it deletes anything, in bytes.
    max_memory: int
    #: How many keys it has deleted so far, those of other clients among them.
    evicted: int

    @property
    def warning(self) -> str:
        """The warning of what may be lost, in two sentences."""
        return (
            f"{self.server} deletes any key when its {self.max_memory / _MEGABYTE:.0f} MB are full "
            f"(maxmemory-policy {self.policy}): messages and records of tasks may be lost, and "
            "steps fail for it. Set maxmemory-policy to noeviction, or use a server that does not "
            "evict."
        )

    def since(self, before: "Eviction | None") -> str:
        """Return how much has been deleted since the run began, in one sentence; empty if nothing.

        Args:
            before: the same as it was then; ``None`` if that is unknown.
        """
        evicted = self.evicted - (before.evicted if before else 0)
        if evicted <= 0:
            return ""
        when = "the run began" if before else "it was started"
        return (
            f"{self.server} has evicted {evicted} keys since {when} (maxmemory-policy "
            f"{self.policy})."
        )
