"""Contiguity, batching and back-off of trade streams, without a socket."""
