"""The two names that the conftest of dagster-celery's tests imports. No test uses what they do."""


def get_test_project_docker_image() -> str:
    """Return the name of an image: only a fixture that no test asks for would use it."""
    raise NotImplementedError("dagster-celery's own tests need no Docker image.")


def build_and_tag_test_image(tag: str) -> None:
    """Build that image."""
    raise NotImplementedError(f"dagster-celery's own tests need no Docker image, as {tag}.")
