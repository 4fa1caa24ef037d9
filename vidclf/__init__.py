"""Which video classifier should I ship? Describe a run as a file, a search as a file, compare, promote.

From Python::

    import vidclf

    run = vidclf.run_experiment("experiments/mine/svm.toml")
    run.metrics["val/macro_f1"]
    run.model().predict("clip.avi")[0].label
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidclf.api import compare, load_experiment, load_model, run_experiment, run_study

__all__ = ["compare", "load_experiment", "load_model", "run_experiment", "run_study"]


def __getattr__(name: str) -> Any:
    """Imports what the five names need when the first of them is used: torch alone takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'vidclf' has no attribute {name!r}")
    from vidclf import api

    return getattr(api, name)
