"""The warehouse against a real PostgreSQL."""
