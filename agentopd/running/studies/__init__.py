"""Several arms and seeds of a run, compared."""
