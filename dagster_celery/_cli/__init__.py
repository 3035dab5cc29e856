"""The commands of ``dagster-celery``, done by those of ``dagster-taskiq``.

``main`` has the groups, ``worker_start``, ``running_workers`` and ``drain`` the commands.
``config_file`` reads the file of ``-y``, ``config_module`` hands it to a worker's processes,
``app_argument`` finds the app of ``-A``. ``options``, ``newer_commands`` and ``worker_name`` are
shared by the commands.

Dagster takes seconds to import. A worker that starts first starts the server that its child
processes are forked from, which imports Dagster at the same time. So these modules import Dagster,
and everything that imports it, in the functions that need it. So they do with what takes more than
a moment: ``status`` is a health probe, which runs every few seconds.
"""
