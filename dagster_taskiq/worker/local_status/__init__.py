"""What a worker says of itself to commands on its own host, without its broker.

Each worker listens on a Unix socket in a directory that only its user can enter: ``sockets`` has
the places, ``server`` is the worker's side and ``client`` that of the commands. A health probe asks
there every few seconds, so what it needs imports neither Dagster nor taskiq.
"""
