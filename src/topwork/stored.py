"""Vectors that stay in the store: read block by block, never all at once."""
