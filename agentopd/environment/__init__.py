"""The environment contract, and what is built on it alone: wrappers, checks, a server."""
