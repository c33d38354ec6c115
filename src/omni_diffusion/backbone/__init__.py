"""Token ids or embeddings to logits: the Dream transformer."""
