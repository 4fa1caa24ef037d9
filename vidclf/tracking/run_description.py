"""A run's description in MLflow: its configuration, its result, its folder."""

import json
import re
from collections.abc import Mapping
from typing import Any

from vidclf import config
from vidclf.runs.folder import SEARCHED_TAG, Attempt, Identity, Outcome
from vidclf.runs.store import Store

_FIGURES = {"val/macro_f1": ".4f", "val/accuracy": ".4f", "size/file_mb": ".2f", "cost/fit_seconds": ".1f"}
"""What is shown, and how; never what is measured after the end, as latency, so that the text stays true."""
_FIXED = ("model.kind", "model.network", "model.features", "model.weights", "model.frozen_stages")
"""What is shown of a run that no study searched."""


def run_note(store: Store, attempt: Attempt, identity: Identity, outcome: Outcome) -> str:
    """An ended attempt as Markdown: few lines, since the UI folds more away."""
    tags = identity.tags
    if "vidclf.trial" in tags:
        study, base = _escaped(tags["vidclf.study"]), _escaped(tags["vidclf.base"])
        lead = f"Trial **{tags['vidclf.trial']}** of the study **{study}**, from {base}"
    else:
        lead = f"A single run of **{_escaped(tags.get('vidclf.file', identity.run_name))}**"
    figures = _listed(
        {
            name: format(outcome.metrics[name], form)
            for name, form in _FIGURES.items()
            if name in outcome.metrics
        }
    )
    ended = "" if outcome.status == "complete" else f"**{outcome.status}**"
    came_out = ": ".join(part for part in (ended, _escaped(outcome.reason), figures) if part)
    place = attempt.folder.relative_to(store.folder).as_posix()
    lines = [f"{lead}: {_listed(_values(attempt, tags))}", came_out, f"Its record is `{place}` in the store."]
    return "\n\n".join(line for line in lines if line) + "\n"


def _values(attempt: Attempt, tags: Mapping[str, str]) -> Mapping[str, Any]:
    if SEARCHED_TAG in tags:
        searched: Mapping[str, Any] = json.loads(tags[SEARCHED_TAG])
        return searched
    tree = config.flatten(config.read_toml(attempt.config)) if attempt.config.exists() else {}
    return {path: tree[path] for path in _FIXED if path in tree}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{path}` {_escaped(_text(value))}" for path, value in values.items())


def _text(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else "+".join(value)
        if isinstance(value, list)
        else str(value)
    )


def _escaped(text: str) -> str:
    """The first line, with nothing in it that Markdown takes for its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text.splitlines()[0] if text else "")
