"""One masked discrete diffusion transformer that reads and makes text, images and speech."""
