"""Requests become filled canvases, step by step, in batches."""
