"""A person at the keyboard, in place of a model."""
