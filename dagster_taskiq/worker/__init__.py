"""A worker: one parent that listens and beats, and child processes that run the tasks."""
