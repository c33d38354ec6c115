"""Measures of a model, by judges that are not the model."""
