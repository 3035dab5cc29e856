"""Broker and backend on Redis or Valkey."""
