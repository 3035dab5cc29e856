"""Stands in for Dagster's internal package of this name, which is not published."""
