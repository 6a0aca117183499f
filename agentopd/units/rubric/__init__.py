"""Rubric spans: criteria, who judges them, who writes them."""
