"""Indicators: one recursion for a whole window and for one more candle."""
