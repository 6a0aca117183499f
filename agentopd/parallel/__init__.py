"""Several processes that do one run's work: who does what, and what they tell one another."""
