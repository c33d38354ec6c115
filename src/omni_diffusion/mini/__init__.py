"""The small model's whole life: its world, data, training, benchmark and weights."""
