"""Public corpora as manifests: what lies where in each, and one way to go through all of them."""
