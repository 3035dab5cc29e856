"""Broker and backend on RabbitMQ."""
