"""What the gauges along a river say: a report when there is a flood, and the levels of a week."""
