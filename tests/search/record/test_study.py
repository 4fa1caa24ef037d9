"""What a study says of its trials."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.scripted_study import in_memory
from tests.studies import METRIC, add_trial
from vidclf.exceptions import InputError
from vidclf.search.record.study import OpenStudy


def constrained(folder: Path, *sizes: float) -> OpenStudy:
    """A study of models that may take 1 MB, with a complete trial of each size."""
    opened = in_memory(folder)
    opened = replace(
        opened, stored={**opened.stored, "constraints": [{"metric": "size/file_mb", "max": 1.0}]}
    )
    for size in sizes:
        add_trial(opened, TrialState.COMPLETE, metrics={METRIC: 0.5, "size/file_mb": size})
    return opened


def test_where_no_trial_keeps_the_constraints_that_is_said(tmp_path: Path) -> None:
    opened = constrained(tmp_path, 2.0, 3.5)
    words = "no trial keeps all constraints: size/file_mb is 2 to 3.5 in 2 of 2 (max 1)"
    assert opened.nothing_feasible(opened.rows()) == words
    with pytest.raises(InputError) as caught:
        opened.require_ranked()
    assert str(caught.value) == f"the study s: {words}"


def test_where_one_keeps_them_or_none_is_complete_nothing_is_said(tmp_path: Path) -> None:
    opened = constrained(tmp_path, 0.5, 2.0)
    assert opened.nothing_feasible(opened.rows()) == ""
    assert [row.metrics["size/file_mb"] for row in opened.ranked()] == [0.5]
    assert opened.nothing_feasible([]) == ""
