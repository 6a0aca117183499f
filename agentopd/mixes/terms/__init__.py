"""Terms that stand in the loss beside the method's own."""
