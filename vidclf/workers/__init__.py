"""Worker processes and Ray actors that train; they do not know Optuna."""
