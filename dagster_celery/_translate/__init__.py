"""What becomes of Celery's names for brokers, settings and worker options.

Each folder has tables, and code that looks up in them: ``urls`` for the URLs of brokers and
backends, ``settings`` for the configuration, ``connections`` for options of connections, ``worker``
for the command line of a worker. ``rows`` is what all tables consist of, ``values`` reads the
values of settings and options, ``reasons`` has texts of several tables. ``names`` has the public
names of dagster-celery. ``tables`` writes all tables for the documentation.

Nothing here imports Celery. The tests do: they compare each table with the lists of the installed
one.
"""
