"""The equations of masked discrete diffusion. Knows nothing of what a token means."""
