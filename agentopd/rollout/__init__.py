"""Rollouts: from tasks to token-exact trajectories."""
