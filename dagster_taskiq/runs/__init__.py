"""Runs: the loop that executes the steps of one, and how whole runs are launched as tasks."""
