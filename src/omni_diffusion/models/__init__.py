"""Whole models: open, save, convert, count and diagnose them."""
