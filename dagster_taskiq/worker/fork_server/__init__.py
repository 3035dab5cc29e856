"""The process from which the children of a worker are forked."""
