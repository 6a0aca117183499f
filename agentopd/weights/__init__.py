"""Weights: how much each token's value counts."""
