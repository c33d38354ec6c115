"""Training material: the small world, manifests, loaders."""
