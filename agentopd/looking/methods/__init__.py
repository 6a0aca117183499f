"""A method explained by its own parts: its equation, the way of its data, what it costs."""
