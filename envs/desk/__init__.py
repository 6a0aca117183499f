"""Desk: an assistant's office of eight apps, its tasks, their evaluation and the environment."""
