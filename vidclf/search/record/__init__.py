"""Studies in Optuna's database: storage, owners, settings and trials."""
