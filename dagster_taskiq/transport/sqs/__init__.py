"""The broker on Amazon SQS, or on a server that speaks its protocol.

``broker`` is what the rest of the package uses. Its parts, each of which calls those below it:

- ``claims`` takes messages and keeps them claimed: ``polls`` (of which each is a ``poll``) receive
  them, ``attempts`` counts how often, ``receipts`` hides or deletes them;
- ``levels`` knows which priorities are in use, ``depths`` counts what waits, ``rejected`` keeps
  what was set aside;
- ``sending`` sends in batches; ``delays`` and ``messages`` are the form of what is sent;
- ``queues`` finds the queues, whose ``names`` say what each is for (the queue of one priority is a
  *level*), and creates those that are missing (``creation``);
- ``connection`` has the clients of AWS's library, as ``url`` and the options say, and calls them in
  ``threads``; ``errors`` says what their errors mean.
"""
