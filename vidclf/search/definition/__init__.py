"""Study files: search space, sampler, pruner and initial trials."""
