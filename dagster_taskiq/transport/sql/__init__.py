"""Broker and backend in an SQL database."""
