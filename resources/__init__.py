"""Where things are kept and fetched: one adapter an engine or exchange, settings, embedded servers."""
