"""What Celery's names for brokers, settings and worker options become: tables, not branches.

``urls`` has the schemes of brokers and backends, ``settings`` and ``setting_rows`` have the
configuration, ``connection_options`` what goes to the connection of a server, ``worker_options``
the command line of a worker, and ``tables`` prints all of them for the documentation. Nothing here
imports Celery; the tests do, and hold each table against the lists of the installed one.
"""
