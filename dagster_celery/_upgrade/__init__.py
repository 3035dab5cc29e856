"""The day of the upgrade: what dagster-celery has left in Celery's queues and in Dagster's runs.

``drain`` does what the command of that name does. ``servers`` reads where Celery's messages and
results are from the settings that dagster-celery was given, and ``open_servers`` connects.
``messages`` reads a message; ``redis_queues`` and ``amqp_queues`` look into the queues, behind what
``left_queues`` declares. ``replies`` answers a run loop of dagster-celery that waits for a step, by
what ``results`` writes. ``runs`` is Dagster's side, ``rescue`` decides what becomes of each
message, ``leftovers`` is what is counted and shown, and ``notices`` what a worker logs when it
starts beside such queues.

Celery and kombu are not imported: the formats are those that Celery documents as its message
protocol 2, and those that kombu and Celery write into Redis.
"""
