"""Broker and backend in this process."""
