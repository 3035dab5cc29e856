"""One run, followed: its loop, and what it knows of its steps."""
