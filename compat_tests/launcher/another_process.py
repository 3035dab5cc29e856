"""What another process does with launched runs, as a webserver or a daemon of its own would."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.preloaded import start_program
from compat_tests.waiting import PATIENCE_SECONDS


def in_another_process(
    home: Path | str, action: str, run_ids: Sequence[str], scratch: Path, port: int = 0
) -> dict[str, Any]:
    """Take an action on some runs in a process that has not launched them.

    Args:
        home: the instance's directory.
        action: ``ask`` for their health, ``terminate``, ``launch``, or ``resume-`` and which
            attempt that is.
        run_ids: the runs.
        scratch: a directory for the output of the process.
        port: that of the code server, for launching and resuming.

    Returns:
        What it has found, by run: for ``ask`` status, message and debug information.
    """
    log = scratch / f"{action}-{len(list(scratch.iterdir()))}.log"
    process = start_program(__name__, [str(home), str(port), action, *run_ids], log)
    code = process.wait(PATIENCE_SECONDS)
    output = log.read_text()
    assert code == 0, output
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def main(home: str, port: str, action: str, *run_ids: str) -> None:
    """Take the action, and print what was found."""
    found: dict[str, Any] = {}
    with DagsterInstance.from_config(home) as instance:
        launcher = instance.run_launcher
        if action == "ask":
            for run_id in run_ids:
                run = instance.get_run_by_id(run_id)
                assert run is not None
                health = launcher.check_run_worker_health(run)
                info = launcher.get_run_worker_debug_info(run)
                found[run_id] = [health.status.value, health.msg or "", info or ""]
        elif action == "terminate":
            found = {run_id: launcher.terminate(run_id) for run_id in run_ids}
        else:
            take_up(instance, int(port), action, run_ids)
    print(json.dumps(found))


def take_up(instance: DagsterInstance, port: int, action: str, run_ids: Sequence[str]) -> None:
    """Launch or resume runs, with the code server at a port."""
    # Imported here: it imports the jobs, of which the other actions have no need.
    from compat_tests.launcher.fleet import LOCATION

    server = GrpcServerTarget(host="localhost", port=port, socket=None, location_name=LOCATION)
    with WorkspaceProcessContext(instance, server) as workspace:
        for run_id in run_ids:
            context = workspace.create_request_context()
            if action == "launch":
                instance.launch_run(run_id, context)
            else:
                instance.resume_run(run_id, context, int(action.removeprefix("resume-")))


if __name__ == "__main__":
    main(*sys.argv[1:])
