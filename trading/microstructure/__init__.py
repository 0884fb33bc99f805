"""Microstructure: what trades and order books say about where volume is, who takes it and how well a market stands."""
