"""Compiled objects, one directory for each architecture (scripts/compile_objects.py fills them)."""
