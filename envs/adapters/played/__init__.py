"""Games and tasks of text that other packages play, one command a turn."""
