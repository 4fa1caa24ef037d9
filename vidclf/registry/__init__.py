"""Models that are shipped: packaged for MLflow, registered, promoted and found again."""

import vidclf.tracking  # noqa: F401  settles mlflow's environment before mlflow is imported
