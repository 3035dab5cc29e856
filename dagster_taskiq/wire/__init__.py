"""What is sent to a broker or kept in a backend: its format and its names."""
