"""What a study's arms do to the student: their gradients before any step, what they made of it."""
