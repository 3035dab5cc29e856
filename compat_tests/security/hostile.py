"""Code that nobody should load: whoever imports it finds a file in ``$DAGSTER_HOME``."""

import os
from pathlib import Path

#: The file, in ``$DAGSTER_HOME``.
TRACE = "hostile-code-was-loaded"

(Path(os.environ["DAGSTER_HOME"]) / TRACE).touch()


def definitions() -> None:
    """Stand for a code location."""
