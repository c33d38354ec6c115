"""Files, configs, weights, memory and optional libraries."""
