"""Each place that leans on Dagster's private parts.

Each module has a ``PART`` (a ``DagsterPart``): what of Dagster is touched, why, what is checked
before, and what happens if Dagster is not as expected. ``registry`` has them all.
"""
