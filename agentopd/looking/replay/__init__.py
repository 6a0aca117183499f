"""What other settings would have made of a run's saved episodes, without playing any again."""
