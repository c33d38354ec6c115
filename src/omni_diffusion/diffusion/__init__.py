"""The equations of masked discrete diffusion; blind to what a token means."""
