"""``python -m dagster_taskiq`` is ``dagster-taskiq``."""

from dagster_taskiq.cli import main

if __name__ == "__main__":
    main()
