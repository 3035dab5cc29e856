"""A run launcher whose runs Dagster may resume, for instances of tests."""

from dagster._core.launcher import DefaultRunLauncher


class ResumingLauncher(DefaultRunLauncher):
    """Says that it can resume runs; the tests do so by themselves."""

    @property
    def supports_resume_run(self) -> bool:
        return True
