"""The apps of the desk, one a file."""
