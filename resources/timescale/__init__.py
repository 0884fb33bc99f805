"""The market database: plain PostgreSQL or TimescaleDB behind one API."""
