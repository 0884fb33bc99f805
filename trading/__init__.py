"""What the system knows: pure Python, without Dagster, database clients, sockets, the wall clock or unseeded randomness."""
