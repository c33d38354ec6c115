"""Training data: manifests, importers, pretokenized shards, sampling and packing."""
