"""Where the checkout is whose tests these are."""

from pathlib import Path

#: The root, from which workers import ``compat_tests``.
ROOT = Path(__file__).parent.parent
