"""The ledger of reads of test splits: what counts as one, and in which order."""

import pytest

from vidclf.config import digest
from vidclf.runs.store import Store
from vidclf.tracking import ledger
from vidclf.tracking.ledger import Ledger


@pytest.mark.slow
def test_a_read_of_any_clip_of_a_split_is_one_of_the_split(store: Store) -> None:
    reads = Ledger(store)
    clips = [digest([number]) for number in range(1300)]
    first = reads.begin("a", clips[:1200], "m1", "champion", "a test")
    assert (first.number, first.comparison) == (1, 1)
    assert reads.begin("other", clips[1200:], "m1", "champion", "a test").number == 1
    renamed = reads.begin("b", clips[1199:1201], "m1", "champion", "of other names and groups, or a part")
    assert (renamed.number, renamed.comparison) == (3, 3)  # it shares a clip with both
    alone = reads.begin("a", clips[:1200], "m2", "", "nothing is compared")
    assert (alone.number, alone.comparison) == (3, 0)
    assert reads.begin("a", clips[:1200], "m3", "champion", "a test").comparison == 3
    assert [read.model for read in reads.reads("a")] == ["m1", "m1", "m2", "m3"]
    assert reads.begin("a", clips[:1200], "m1", "champion", "again") == first


def test_reads_are_numbered_in_their_order_whatever_a_clock_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger_ = Ledger(store)
    numbers = []
    for hour, model in ((3, "first"), (1, "second"), (2, "third")):
        monkeypatch.setattr(ledger, "now_ms", lambda hour=hour: hour * 3_600_000)
        numbers.append(ledger_.begin("0" * 64, [], model, "", "a test").number)
    assert numbers == [1, 2, 3]
    assert [read.model for read in ledger_.reads("0" * 64)] == ["first", "second", "third"]
