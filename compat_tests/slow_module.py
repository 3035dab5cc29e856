"""A module that takes its time to import, for the tests: longer than the lease of their worker."""

import time

time.sleep(3)
