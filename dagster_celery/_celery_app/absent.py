"""The error about an attribute of Celery's objects that is not here."""


def absent(what: str, name: str) -> AttributeError:
    """Return the error for an attribute that is not here.

    Args:
        what: the object, such as ``Celery's app``.
        name: the attribute.
    """
    return AttributeError(
        f"The part of {what} that dagster-taskiq has does not include {name!r}. Use taskiq's own "
        "broker instead: dagster_taskiq.app.broker."
    )
