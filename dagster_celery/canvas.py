"""Signatures of several tasks: what Celery's users import from ``celery``."""

from dagster_celery._celery_app.canvas import chain, chord, chunks, group, xmap, xstarmap
from dagster_celery._celery_app.signature import Signature, maybe_signature, signature, subtask

__all__ = [
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
