"""Privileged information: what the teacher may know and the student may not."""
