"""Episodes played, or read from text, to be learnt from later."""
