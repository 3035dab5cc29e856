"""What is promised when things break: each test breaks one of them on purpose, in a real fleet.

What ops do they note in a file themselves, and that is what is counted; never what the engine says
of itself. ``docs/explanation/reliability.md`` lists the promises, each with the test here that
holds it.
"""
