"""Tests of dagster-celery and of libraries on it, unmodified, on this project's package."""
