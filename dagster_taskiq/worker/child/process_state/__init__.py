"""What a task may change of the process that it runs in, and how the next task does not see it.

A child runs many tasks, and each must find the process as a new one would be. After each task the
child therefore restores every kind of state that is listed in ``kinds``. What cannot be restored (a
thread that still runs, a closed ``sys.stdout``) ends the child: another takes its place.

What is restored is the state that a new process would have *when it has loaded the code*. A module
that sets something while it is imported (an environment variable, a warnings filter, ``sys.path``)
would set it again in a new process. In a child it is imported once and stays, and so does what it
has set:

* What changes while the job of a task is loaded is kept (``ProcessState.loading``).
* What changes while a function of the task imports a module for the first time is kept
  (``imports``). A new process would have it only in those tasks that import the module; here all
  later tasks have it. The other way round, a task would import the module and miss what belongs to
  it.
* Everything else that a task changes is restored.

Not restored is what belongs to one module: its global variables, functions that were replaced in
it, its registered ``atexit`` functions, the state of its native libraries.
"""

from dagster_taskiq.worker.child.process_state.state import ProcessState

__all__ = ["ProcessState"]
