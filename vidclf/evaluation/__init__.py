"""Metrics of predictions, their intervals, calibration, and the ranking of trials."""
