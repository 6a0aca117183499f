"""Who writes which turn of an episode, and what they are told."""
