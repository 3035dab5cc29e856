"""The SQL broker and backend on PostgreSQL: what differs from other databases."""
