"""What is looked at when a run has ended."""
