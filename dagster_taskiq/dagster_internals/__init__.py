"""Each place that leans on Dagster's private parts.

Each module has a ``PART``, which says what of Dagster it touches, why, what is checked before, and
what happens if Dagster is not as expected. ``registry`` has them all.
"""
