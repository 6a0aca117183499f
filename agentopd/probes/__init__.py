"""Probes: what a step was like, by turn and by success, beside its loss."""
