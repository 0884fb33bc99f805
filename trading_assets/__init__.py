"""What exists: thin software-defined assets, their checks and partitions, and the command line."""
