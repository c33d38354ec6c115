"""`python -m omni_diffusion` is the command line."""

from omni_diffusion.cli.main import main

main()
