"""Language models that play against the student inside an environment for two."""
