"""Mixes of episodes in which the student was told something."""
