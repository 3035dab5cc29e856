"""Crates of fruit that are counted, by steps on several machines."""
