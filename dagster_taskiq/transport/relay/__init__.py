"""Broker and backend of a worker's children, which go through the connection of their worker.

A worker that holds a hundred runs has a hundred children whose loops send steps and wait for them.
On a server where each connection is a process of its own (PostgreSQL), they share the worker's. The
worker serves its children on a Unix socket (``server``); in a child, ``RelayedBroker`` and
``RelayedBackend`` send each call there (``broker``, ``backend``), as a frame (``frames``).
"""
