"""Captured nodes (README.md) and how a test makes one of them a directory that Host takes for a node's root."""
