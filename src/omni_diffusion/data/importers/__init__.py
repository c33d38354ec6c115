"""Importers: turn public corpora into manifests."""
