"""Every kind of model under one contract, and the one format in which they are saved."""
