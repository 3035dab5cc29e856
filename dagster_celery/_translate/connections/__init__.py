"""The options of connections: Celery's TLS mappings and transport options.

kombu hands both to the client library of the broker, so their names depend on the server
(``servers``). ``option_rows`` has the tables; ``options`` looks up in them, and returns options by
the names of the engine's own client libraries.
"""
