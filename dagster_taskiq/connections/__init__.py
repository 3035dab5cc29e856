"""Connections to a server, each shared by the broker and the backend that live on it."""
