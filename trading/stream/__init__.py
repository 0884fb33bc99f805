"""Streams of an exchange without a socket: frames, contiguity of trades, order books, and back-off."""
