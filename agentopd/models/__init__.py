"""Language models, their chat templates and batches."""
