"""A module for the launcher's ``include``: jobs can tell whether it was there before them."""

import os

#: What a module of jobs reads as it is imported.
MARK = "DAGSTER_TASKIQ_TEST_INCLUDED"

os.environ[MARK] = "included"
