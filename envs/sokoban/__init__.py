"""Sokoban: levels, exact search, generator and environment."""
