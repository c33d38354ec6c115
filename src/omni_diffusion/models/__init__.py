"""Whole models: opening, saving, converting, sizes."""
