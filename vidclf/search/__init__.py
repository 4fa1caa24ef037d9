"""Hyperparameter studies: the only package that imports Optuna."""
