"""The tasks of libraries that only watch a step, which runs in a container or a Kubernetes Job.

``watchers`` has the table of them, by the name of the task; ``docker`` and ``kubernetes`` are what
is known of each. A worker that leaves or dies takes no such step with it: another task watches the
same container or Job.
"""
