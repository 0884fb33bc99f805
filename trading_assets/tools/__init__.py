"""What an agent may ask of a market: one function a question, the same in Python, on the command line and over MCP."""
