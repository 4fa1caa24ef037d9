"""The processes and Ray actors that train for a study; they know nothing of Optuna."""
