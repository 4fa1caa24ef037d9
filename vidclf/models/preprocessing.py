"""scikit-learn transformers and estimators that scikit-learn lacks, or whose own fail on few clips.

They are scikit-learn estimators, so that calibration fits them anew in each of its folds.
"""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import additive_chi2_kernel, chi2_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

Matrix = NDArray[np.float64]
"""Shape (clips, values)."""


class BlockScaler(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardises every value, then divides each block so that all blocks weigh alike.

    Otherwise a feature of 2,592 values counts six times as much as one of 432. The
    divisor is the square root of the number of the block's values that vary, which
    makes its squared norm 1 on average over the training clips. ``lengths`` are the
    numbers of values of the blocks, in their order.

    Attributes:
        standard_: Mean and deviation of each value.
        weights_: What each block is multiplied by, 1 for a block that never varies.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def fit(self, values: Matrix, labels: object = None) -> Self:
        self.standard_ = StandardScaler().fit(values)
        varying = np.square(self.standard_.transform(values)).mean(axis=0)
        blocks = np.split(varying, np.cumsum(self.lengths)[:-1])
        self.weights_ = np.array([1 / np.sqrt(block.sum() or 1.0) for block in blocks])
        return self

    def transform(self, values: Matrix) -> Matrix:
        scaled: Matrix = self.standard_.transform(values) * np.repeat(self.weights_, self.lengths)
        return scaled


class PrincipalComponents(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Principal components by an exact decomposition, at most as many as there are clips and values.

    ``count`` is their number from 1 on; below 1 the least share of the variance that they keep.

    Attributes:
        pca_: The fitted components.
    """

    def __init__(self, count: float) -> None:
        self.count = count

    def fit(self, values: Matrix, labels: object = None) -> Self:
        count = self.count if self.count < 1 else min(int(self.count), *values.shape)
        if not values.var(axis=0).any():
            count = 1  # No variance to keep a share of.
        with np.errstate(invalid="ignore"):
            self.pca_ = PCA(count, svd_solver="full").fit(values)
        return self

    def transform(self, values: Matrix) -> Matrix:
        components: Matrix = self.pca_.transform(values)
        return components


class HistogramKernel(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Similarity of histograms to those of the training clips, for an SVM on a precomputed kernel.

    ``chi2`` is exp(-gamma * sum of (x - y)^2 / (x + y)), ``intersection`` the sum of min(x, y). The gamma
    ``scale`` is 1 / the mean of the former sum over all pairs of training clips, as in Zhang et al., "Local
    features and kernels for classification of texture and object categories", IJCV 2007.

    Attributes:
        clips_: The training clips' histograms.
        gamma_: Inverse width of the chi2 kernel.
    """

    def __init__(
        self, kernel: Literal["chi2", "intersection"], gamma: float | Literal["scale"] = "scale"
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma

    def fit(self, values: Matrix, labels: object = None) -> Self:
        self.clips_ = values
        self.gamma_ = self.gamma
        if self.kernel == "chi2" and self.gamma == "scale":
            # A clip is at distance 0 from itself.
            mean = -additive_chi2_kernel(values).sum() / max(len(values) * (len(values) - 1), 1)
            self.gamma_ = float(1 / (mean or 1.0))
        return self

    def transform(self, values: Matrix) -> Matrix:
        """The kernel's values, shape (clips, training clips)."""
        if self.kernel == "chi2":
            similarity: Matrix = chi2_kernel(values, self.clips_, gamma=self.gamma_)
            return similarity
        return np.stack([np.minimum(row, self.clips_).sum(axis=1) for row in values])


class NearestNeighbours(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The classes of the most similar training clips, of all of them where there are fewer.

    Attributes:
        knn_: The fitted search.
        classes_: The classes among the training clips, ascending.
    """

    def __init__(
        self, neighbours: int, metric: Literal["euclidean", "cosine"], weights: Literal["uniform", "distance"]
    ) -> None:
        self.neighbours = neighbours
        self.metric = metric
        self.weights = weights

    def fit(self, values: Matrix, labels: NDArray[np.int64]) -> Self:
        count = min(self.neighbours, len(values))
        knn = KNeighborsClassifier(count, metric=self.metric, weights=self.weights, algorithm="brute")
        self.knn_ = knn.fit(values, labels)
        self.classes_ = knn.classes_
        return self

    def predict(self, values: Matrix) -> NDArray[np.int64]:
        """The class with most votes; scikit-learn calibrates nothing without this."""
        labels: NDArray[np.int64] = self.knn_.predict(values)
        return labels

    def predict_proba(self, values: Matrix) -> Matrix:
        """Shares of the votes, shape (clips, classes)."""
        shares: Matrix = self.knn_.predict_proba(values)
        return shares
