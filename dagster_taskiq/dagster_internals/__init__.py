"""Each place where we lean on Dagster's private parts.

Each module says: what of Dagster it touches or replaces, why, what is checked before, and what
happens where Dagster is not as expected.
"""
