"""Exact search over embeddings and sparse vectors, and pairs found by it."""
