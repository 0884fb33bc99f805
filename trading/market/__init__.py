"""Symbols, timeframes, trades, candles and derivatives: what is traded and what happened to it."""
