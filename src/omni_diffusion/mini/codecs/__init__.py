"""Training the small model's codecs."""
