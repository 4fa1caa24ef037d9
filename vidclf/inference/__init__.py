"""Prediction with saved models, their export, and their latency, size and memory."""
