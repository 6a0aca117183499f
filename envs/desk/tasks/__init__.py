"""What the assistant is asked to do, one file a difficulty."""
