"""Brokers, which carry work, and backends, which keep its state."""
