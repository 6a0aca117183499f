"""Models asked for text: what judges, and writers of rubrics and of privileged text, share."""
