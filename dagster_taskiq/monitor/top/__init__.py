"""``dagster-taskiq top``: the fleet, live in a terminal.

- ``terminal`` takes the terminal over, reads keys, and gives it back;
- ``state`` is what the keys have chosen: sections, order, filter, pause;
- ``sections`` has the four tables, and ``screen`` draws a whole screen of them;
- ``app`` looks at the fleet, and draws.
"""
