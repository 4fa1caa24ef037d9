"""Steps of classical models: blocks that weigh alike, components within what there is, plain kernels."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from vidclf.models.preprocessing import (
    BlockScaler,
    HistogramKernel,
    Matrix,
    NearestNeighbours,
    PrincipalComponents,
)


def histograms(clips: int, seed: int = 0) -> Matrix:
    """Two histograms of 5 bins side by side, some bins empty."""
    counts = np.random.default_rng(seed).integers(0, 4, (clips, 2, 5)) + np.eye(5, dtype=np.int64)[0]
    return (counts / counts.sum(axis=2, keepdims=True)).reshape(clips, 10)


def naive(kernel: Callable[[float, float], float], first: Matrix, second: Matrix) -> Matrix:
    """The sum of ``kernel`` over the values of every pair."""
    return np.array([[sum(map(kernel, map(float, a), map(float, b))) for b in second] for a in first])


def chi2_distance(x: float, y: float) -> float:
    return (x - y) ** 2 / (x + y) if x + y else 0.0


def test_every_block_has_the_same_norm() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(3, generator.uniform(0.1, 9, 46), (30, 46))
    values[:, 41] = 7  # a value of the second block that never varies
    values[:, 44:] = 1  # nor does the third block
    scaled = BlockScaler((40, 4, 2)).fit_transform(values)
    norms = [np.square(block).sum(axis=1).mean() for block in np.split(scaled, [40, 44], axis=1)]
    assert norms == pytest.approx([1, 1, 0])
    standard = StandardScaler().fit_transform(values)
    np.testing.assert_allclose(scaled[:, :40], standard[:, :40] / math.sqrt(40))
    np.testing.assert_allclose(scaled[:, 40:44], standard[:, 40:44] / math.sqrt(3))


@pytest.mark.parametrize(
    ("count", "kept"),
    [(1, 1), (4, 4), (6, 6), (7, 6), (1000, 6)],
)
def test_components_are_at_most_what_there_is(count: int, kept: int) -> None:
    values = np.random.default_rng(0).normal(size=(6, 9))
    assert PrincipalComponents(count).fit_transform(values).shape == (6, kept)
    assert PrincipalComponents(count).fit_transform(values.T).shape == (9, kept)


def test_a_share_keeps_the_fewest_components_that_explain_it() -> None:
    values = np.random.default_rng(0).normal(size=(200, 3)) * [10, 3, 0.1]
    shares = values.var(axis=0) / values.var(axis=0).sum()
    assert shares[0] > 0.85
    assert [PrincipalComponents(share).fit_transform(values).shape[1] for share in (0.5, 0.97, 0.99999)] == [
        1,
        2,
        3,
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [0.9, 3])
def test_clips_that_are_all_alike_have_components_too(count: float) -> None:
    assert not PrincipalComponents(count).fit_transform(np.ones((5, 8))).any()


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_chi2_equals_a_naive_computation(gamma: float) -> None:
    first, second = histograms(7), histograms(4, seed=1)
    kernel = HistogramKernel("chi2", gamma).fit(first)
    np.testing.assert_allclose(
        kernel.transform(second), np.exp(-gamma * naive(chi2_distance, second, first)), rtol=1e-12
    )


def test_chi2_scales_by_the_mean_distance_of_two_clips() -> None:
    values = histograms(7)
    distances = naive(chi2_distance, values, values)
    mean = distances[~np.eye(7, dtype=bool)].mean()
    kernel = HistogramKernel("chi2").fit(values)
    assert kernel.gamma_ == pytest.approx(1 / mean)
    np.testing.assert_allclose(kernel.transform(values), np.exp(-distances / mean), rtol=1e-12)
    assert HistogramKernel("chi2").fit(np.repeat(values[:1], 3, axis=0)).gamma_ == 1


def test_intersection_equals_a_naive_computation() -> None:
    first, second = histograms(7), histograms(4, seed=1)
    expected = naive(min, second, first)
    kernel = HistogramKernel("intersection").fit(first)
    np.testing.assert_allclose(kernel.transform(second), expected, rtol=1e-12)
    assert np.diag(kernel.transform(first)) == pytest.approx(2)  # two histograms


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_more_neighbours_than_clips_are_all_clips(metric: str) -> None:
    values, labels = histograms(5), np.array([0, 2, 2, 0, 2])
    knn = NearestNeighbours(99, metric, "uniform").fit(values, labels)  # type: ignore[arg-type]
    assert knn.classes_.tolist() == [0, 2]
    np.testing.assert_allclose(knn.predict_proba(values), [[0.4, 0.6]] * 5)
    one = NearestNeighbours(1, metric, "distance").fit(values, labels)  # type: ignore[arg-type]
    assert one.predict(values).tolist() == labels.tolist()


@pytest.mark.parametrize(
    "step",
    [
        BlockScaler((2, 3)),
        PrincipalComponents(0.5),
        HistogramKernel("chi2", 0.5),
        NearestNeighbours(3, "cosine", "uniform"),
    ],
)
def test_a_clone_has_the_same_arguments(step: object) -> None:
    assert clone(step).get_params() == step.get_params()  # type: ignore[attr-defined]
