"""What the server that starts local workers imports once for all of them: it takes ten seconds."""

import gc

import av  # noqa: F401, TID251
import sklearn.svm  # noqa: F401
import torch._dynamo  # noqa: F401  # torch's optimizers import it
import torchvision  # noqa: F401

import vidclf.models.classical
import vidclf.models.neural
import vidclf.reports.diagnostics
import vidclf.runs.retrain  # noqa: F401

gc.collect()
