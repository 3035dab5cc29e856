"""Hides Celery, where it is installed: what runs with this on its path runs without it."""

raise ModuleNotFoundError(f"{__name__} is hidden in these tests.", name=__name__)
