"""What a checker raises."""


class Wrong(AssertionError):
    """A block is not as it should be; the message says what to do, in a sentence."""
