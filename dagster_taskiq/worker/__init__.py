"""A worker: one parent process that receives tasks, and child processes that run them."""
