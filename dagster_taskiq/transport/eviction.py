"""Servers that delete keys to make room for others, and what they say of that."""

from dataclasses import dataclass

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Eviction:
    """How a server makes room when its memory is full: by deleting what nobody may lose here."""

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
        """What to know before anything is lost, in one sentence."""
        return (
            f"{self.server} deletes any key when its {self.max_memory / _MEGABYTE:.0f} MB are full "
            f"(maxmemory-policy {self.policy}): messages and records of tasks may be lost, and "
            "steps fail for it. Set maxmemory-policy to noeviction, or use a server that does not "
            "evict."
        )

    def since(self, before: "Eviction | None") -> str:
        """Return what has been deleted since the run began, in one sentence; empty for nothing.

        Args:
            before: how it was then; ``None`` where nobody has asked.
        """
        evicted = self.evicted - (before.evicted if before else 0)
        if evicted <= 0:
            return ""
        when = "the run began" if before else "it was started"
        return (
            f"{self.server} has evicted {evicted} keys since {when} (maxmemory-policy "
            f"{self.policy})."
        )
