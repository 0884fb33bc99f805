"""Symbols, timeframes, trades and candles: what is traded and what happened to it."""
