"""Methods in stages: one run after another, each in a folder of its own."""
