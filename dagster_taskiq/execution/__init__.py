"""One task, executed in this process."""
