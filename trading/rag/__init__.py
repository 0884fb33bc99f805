"""Market memory: states of a market, what came after them, and which past states resemble one."""
