"""The monitor: its model of the fleet, its answers, and its page in a real browser."""
