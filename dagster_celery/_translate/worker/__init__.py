"""The options of ``celery worker``, as options of ``dagster-taskiq worker start``.

They are the arguments after ``--`` in ``dagster-celery worker start ... -- --concurrency 4``.
``option_rows`` is the table, ``arguments`` looks up in it, and ``node_name`` expands the names of
workers.
"""
