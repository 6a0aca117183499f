"""Supervision units: at which granularity the teacher is measured and credited."""
