"""The words: what goes over the wire, and what it is called there."""
