"""The SQL broker and backend in a SQLite file: what differs from other databases."""
