"""The command line, ``dagster-taskiq``: its program. The commands are in ``commands``."""

import sys

#: The exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT.
INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    An error of ours is one sentence on stderr and exit code 2. Ctrl-C ends a command that does not
    handle it without a traceback, also while this imports what it needs.
    """
    try:
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # the terminal has written ^C
        sys.exit(INTERRUPTED)


def _run() -> None:
    import click

    from dagster_taskiq.cli.commands import cli
    from dagster_taskiq.errors import DagsterTaskiqError

    try:
        # click's own way would end with "Aborted!" and exit code 1 after Ctrl-C.
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DagsterTaskiqError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
