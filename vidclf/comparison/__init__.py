"""Studies, single runs and baselines side by side: which model to ship, and how sure that is."""
