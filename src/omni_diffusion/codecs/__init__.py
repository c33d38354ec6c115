"""Media to local token ids or frames and back; knows nothing of the backbone."""
