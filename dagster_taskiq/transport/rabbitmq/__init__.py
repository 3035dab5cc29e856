"""Broker and backend on RabbitMQ.

``names`` lists every queue and exchange with its meaning. Who uses whom, from the top down:

- ``broker``: ``sending``, ``claims``, ``waiting`` and ``rejected`` are what happens to messages;
  they share ``queues`` (declared, with their delays) and ``wakeups``.
- ``backend``: ``task_table`` and ``heartbeats`` are the content of ``records``, from which
  ``ended_tasks`` are moved out, and leave ``ended_ids``; ``progress`` and ``inbox`` (notifications)
  are queues that expire.
- ``connection``: lends a ``channel``, a view of one ``link``, which is one AMQP connection on one
  ``tcp`` connection. ``url`` reads where to, and ``errors`` translates what fails.
"""
