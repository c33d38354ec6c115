"""Speech-driven visual interaction: synthesize speech for written questions about pictures."""
