"""Finished models at work: prediction, export, and what a model costs on this machine."""
