"""Monitoring: what the whole fleet does, as a web page, JSON, metrics, and in a terminal."""
