"""Episodes kept on disk, and what the models said of them."""
