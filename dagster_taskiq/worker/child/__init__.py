"""What runs inside a child process of a worker."""
