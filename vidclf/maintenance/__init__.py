"""Checks and repairs of a store."""
