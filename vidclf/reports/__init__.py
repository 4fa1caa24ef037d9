"""HTML pages, plots and pictures."""
