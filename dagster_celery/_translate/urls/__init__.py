"""The URLs of Celery brokers and result backends, as the engine's.

A URL is read in the way that kombu and Celery read it, and written in the way that the engine reads
it. The engine's own schemes are left as they are. No error and no remark shows a password.

``broker_schemes`` and ``backend_schemes`` are the tables, and ``translate`` looks up in them.
``rabbitmq``, ``redis``, ``databases`` and ``other`` are what their rows call, for each family of
servers. ``parts`` takes URLs apart and puts them together; ``scheme`` has what a row consists of.
"""
