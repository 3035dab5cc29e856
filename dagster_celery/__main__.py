"""``python -m dagster_celery``: the command line."""

from dagster_celery._cli.main import main

if __name__ == "__main__":
    main()
