"""The error about an attribute of Celery's objects that is not here."""

#: What to use instead, unless something is nearer.
_BROKER = "Use taskiq's own broker instead: dagster_taskiq.app.broker."


def absent(what: str, name: str, instead: str = _BROKER) -> AttributeError:
    """Return the error for an attribute that is not here.

    Args:
        what: the object, such as ``Celery's app``.
        name: the attribute.
        instead: a sentence that says what to do.
    """
    return AttributeError(
        f"The part of {what} that dagster-taskiq has does not include {name!r}. {instead}"
    )
