"""Bikes for hire: a project with tasks of its own on the broker that Dagster's runs are on."""
