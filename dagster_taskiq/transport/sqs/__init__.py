"""The broker on Amazon SQS, or on a server that speaks its protocol."""
