"""Whole Dagster jobs through real workers: what a run promises, on every broker."""
