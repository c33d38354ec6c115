"""Whole trainings as data: functions that return every number of a run."""
