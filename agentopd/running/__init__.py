"""Runs and studies: their configuration, their folders, their loop."""
