"""Measure dagster-celery with Celery and this project, side by side, and print medians and ratios.

    python -m benchmarks.run [--only NAME] [--rounds N] [--places PLACES] [--storage STORAGE]
        [--large] [--write DIR]

Both run the same jobs by the same commands on the same servers, each with the Python of its own
virtual environment, and take turns round by round. `make bench` makes the environments. Needs
`redis-server` and `rabbitmq-server` on this machine, or URLs of running ones that nobody else uses;
and PostgreSQL's binaries, for Dagster's storage on it.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks.measures import LARGE, MEASURES
from benchmarks.report import Figures, heading, table, write
from benchmarks.sides import ORIGINAL_VENV, OUR_VENV, PLACES, RABBITMQ, REDIS, BenchmarkError
from benchmarks.stage import open_stage
from benchmarks.storage import SQLITE, STORAGES


def places(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(PLACES):
        raise argparse.ArgumentTypeError(f"no such place: {', '.join(unknown)}")
    return [place for place in PLACES if place in chosen]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="\n".join(f"{name:9} {each.__doc__}" for name, each in MEASURES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=MEASURES, help="measure this; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often (3)")
    parser.add_argument("--places", type=places, default=list(PLACES), help=f"{','.join(PLACES)}")
    parser.add_argument(
        "--storage", choices=STORAGES, default=SQLITE, help=f"Dagster's own ({SQLITE})"
    )
    parser.add_argument(
        "--large", action="store_true", help="fans of 2000 too, which takes an hour"
    )
    parser.add_argument("--write", type=Path, metavar="DIR", help="write JSON, table and chart")
    parser.add_argument("--redis", help="URL of a Redis; else one is started")
    parser.add_argument("--rabbitmq", help="URL of a RabbitMQ; else one is started")
    return parser.parse_args()


def leave(_number: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C, which stops all that was started."""
    raise KeyboardInterrupt


def main() -> None:
    arguments = parse()
    for venv in (ORIGINAL_VENV, OUR_VENV):
        if not (venv / "bin" / "python").exists():
            sys.exit(f"{venv} is not there: `make bench` makes it.")
    signal.signal(signal.SIGTERM, leave)
    chosen = arguments.only or [name for name in MEASURES if arguments.large or name not in LARGE]
    figures = Figures(arguments.rounds, arguments.storage)
    given = {REDIS: arguments.redis, RABBITMQ: arguments.rabbitmq}
    failed: str | None = None
    try:
        with open_stage(arguments.places, arguments.rounds, figures, given) as stage:
            for name in chosen:
                MEASURES[name](stage)
    except BenchmarkError as error:
        failed = str(error)
    except KeyboardInterrupt:
        failed = "Interrupted: these are the figures so far."
    # What has been measured is worth telling, whatever came after it.
    print(f"{heading(figures)}\n\n{table(figures)}")
    if arguments.write is not None:
        write(figures, arguments.write)
    if failed is not None:
        sys.exit(failed)


if __name__ == "__main__":
    main()
