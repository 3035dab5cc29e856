"""What the documentation shows is what works: every block of code on every page is checked.

A block is what stands between fences (```` ``` ````) in a page that people read: README.md and its
neighbours, and the Markdown below ``docs``, ``examples`` and ``deploy``. How it is checked follows
from its file name or else from its language; a block that nothing checks fails
(:mod:`compat_tests.docs.blocks`, :mod:`compat_tests.docs.checkers`).
"""
