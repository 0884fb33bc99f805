"""The command line: `trading …`."""
