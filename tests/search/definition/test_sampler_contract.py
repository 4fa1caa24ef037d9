"""Optuna's own tests of a sampler, over every one that a study file can name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from tests.clips import write_experiment
from tests.rounds import rounds
from vidclf.runs.experiment import load_experiment
from vidclf.search.definition.samplers import SAMPLERS, build_sampler
from vidclf.search.definition.space import Space, build_space

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    """A space of other parameters than those that Optuna's tests ask for."""
    folder = tmp_path_factory.mktemp("space")
    base = load_experiment(write_experiment(folder / "svm.toml", "svm", folder / "m.csv"))
    return build_space({"data.frames": {"choices": [2, 4]}}, {"svm": base}, "study.toml", Path("/"))


@pytest.fixture
def sampler(name: str, space: Space) -> Callable[[], BaseSampler]:
    return lambda: build_sampler(SAMPLERS[name](), space, 0)


NAMES = rounds(brief=["tpe", "qmc", "grid"], full=list(SAMPLERS))
"""In brief: the default, and those whose class is ours."""
SINGLE = [name for name in NAMES if SAMPLERS[name].objectives == 1]
SEVERAL = [name for name in NAMES if name not in SINGLE]


@pytest.mark.parametrize("name", NAMES)
class TestBasic(BasicSamplerTestCase):
    sampler = staticmethod(sampler)


@pytest.mark.parametrize("name", SEVERAL)
class TestSeveralObjectives(MultiObjectiveSamplerTestCase):
    sampler = staticmethod(sampler)


@pytest.mark.parametrize("name", SINGLE)
class TestOneObjective(SingleOnlySamplerTestCase):
    sampler = staticmethod(sampler)
