"""How far the student is from the teacher at each token."""
