"""Speech-driven visual interaction: what is written about pictures, spoken."""
