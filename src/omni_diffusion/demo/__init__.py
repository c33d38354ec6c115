"""The demonstration: every task once, as one page on which the denoising can be watched."""
