"""The unified provider: one question, live or historical, and one answer."""
