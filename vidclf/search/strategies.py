"""Whether a study's sampler and pruner suit its space and its objective."""

from vidclf.search.pruners import PrunerConfig, pruner_problems
from vidclf.search.samplers import SamplerConfig, sampler_problems
from vidclf.search.space import Space


def check_strategies(
    sampler: SamplerConfig, pruner: PrunerConfig, space: Space, *, objectives: int = 1, repeats: int = 1
) -> list[str]:
    """What is wrong between a study's sampler, its pruner and what they are to search.

    Args:
        sampler: Who proposes configurations.
        pruner: Who stops trials early.
        space: What is searched.
        objectives: How many objectives there are.
        repeats: How often each configuration is run.
    """
    return [*sampler_problems(sampler, space, objectives), *pruner_problems(pruner, space, repeats)]
