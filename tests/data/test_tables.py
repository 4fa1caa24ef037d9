"""Tables as they leave for spreadsheets."""

import pandas as pd

from vidclf.data.tables import for_spreadsheets


def test_no_text_is_a_formula_and_numbers_stay_numbers() -> None:
    texts = ["=1+1", "+1", "-x.avi", "@x", "\t=1", "a=b", ""]
    safe = for_spreadsheets(pd.DataFrame({"clip": texts, "=label": [-1.5] * len(texts)}))
    assert safe["clip"].tolist() == ["'=1+1", "'+1", "'-x.avi", "'@x", "'\t=1", "a=b", ""]
    assert safe["'=label"].tolist() == [-1.5] * len(texts)
