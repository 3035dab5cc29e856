"""The random numbers of Python's ``random`` module.

A task that seeds them must not decide what the next task draws. Code that seeds them while it is
loaded does decide that, as in every new process.
"""

import os
import random

#: How many words of 32 bits the generator makes at once.
_WORDS = 624
#: How many random bytes the generator is seeded with.
_SEED_BYTES = 64
#: How often code may have the generator do so while it is loaded; more is taken for a seed.
_MOST_DRAWN = 200


class GeneratorState:
    """A state of the generator; equal to those that follow from it by drawing numbers."""

    def __init__(self) -> None:
        self.state = random.getstate()

    def __eq__(self, other: object) -> bool:
        """Whether the other one is this one, or a later one without a new seed between."""
        if not isinstance(other, GeneratorState):
            return NotImplemented
        wanted = other._words
        if self._words == wanted:
            return True
        generator = random.Random()
        generator.setstate(self.state)
        for _ in range(_MOST_DRAWN):
            generator.getrandbits(32 * _WORDS)
            if generator.getstate()[1][:_WORDS] == wanted:
                return True
        return False

    __hash__ = None  # type: ignore[assignment] # equal ones may be told apart

    @property
    def _words(self) -> tuple[int, ...]:
        words: tuple[int, ...] = self.state[1][:_WORDS]
        return words


class RandomNumbers:
    """The generator that ``random.random()`` and its like share."""

    name = "random numbers"
    of_thread = False

    def __init__(self) -> None:
        self._first: GeneratorState | None = None

    def read(self) -> GeneratorState:
        """Return its state."""
        found = GeneratorState()
        self._first = self._first or found
        return found

    def restore(self, wanted: GeneratorState) -> None:
        """Seed it anew, or as code has seeded it while it was loaded."""
        if wanted is self._first:
            # Without an argument it asks the system for ten times as much, which takes longer.
            random.seed(int.from_bytes(os.urandom(_SEED_BYTES), "little"))
        else:
            random.setstate(wanted.state)
