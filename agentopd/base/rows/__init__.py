"""Rows of methods: what their files say of themselves, and what their parts cost."""
