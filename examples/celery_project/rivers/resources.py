"""Where reports are kept."""

from pathlib import Path

from dagster import ConfigurableResource


class ReportDirectory(ConfigurableResource):
    """A directory that every worker can write to."""

    path: str

    def write(self, name: str, text: str) -> str:
        """Write a report, in place of the one of that name; return its path."""
        directory = Path(self.path)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / name
        target.write_text(text)
        return str(target)
