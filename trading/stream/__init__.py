"""Streams of exchanges without a socket: frames, contiguity and identity of trades, order books, and back-off."""
