"""Writes a study's curves for TensorBoard or W&B, from the attempt folders of its store alone.

``pip install tensorboard`` or ``pip install wandb``, then::

    python examples/export_curves.py demo && tensorboard --logdir curves/tensorboard
    WANDB_MODE=offline python examples/export_curves.py demo --to wandb && wandb sync curves/wandb/demo/*/wandb/offline-run-*

One run a finished trial: what each epoch measured, the searched values and the final metrics. Trials that are
in the folder already are left as they are, so the same command adds those that have come since.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidclf import config
from vidclf.runs.folder import SEARCHED_TAG
from vidclf.runs.store import Store, find_store


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: Of the trial, as its folder is called.
        name: As MLflow shows it.
        study: Its name.
        experiment: All values of its resolved experiment; none where it ended before it began.
        searched: Its base, how it ended, and its searched values by dotted path.
        curves: Metrics by epoch; with repeats each name begins with ``repeat/i/``.
        final: The final metrics; none of a trial that was pruned in an early epoch.
    """

    number: str
    name: str
    study: str
    experiment: Mapping[str, Any]
    searched: Mapping[str, Any]
    curves: Mapping[int, Mapping[str, float]]
    final: Mapping[str, float]


def trials(store: Store, study: str) -> Iterator[Trial]:
    """Those of a study that have ended, by number."""
    for attempt, identity in store.all_attempts():
        tags, outcome = identity.tags, attempt.outcome()
        if tags.get("vidclf.study") != study or SEARCHED_TAG not in tags or outcome is None:
            continue
        curves: dict[int, dict[str, float]] = defaultdict(dict)
        for step, metrics in attempt.records():
            curves[step] |= {name: value for name, value in metrics.items() if "epoch/" in name}
        yield Trial(
            attempt.folder.name,
            identity.run_name,
            study,
            config.read_toml(attempt.config) if attempt.config.exists() else {},
            {"base": tags["vidclf.base"], "status": outcome.status, **json.loads(tags[SEARCHED_TAG])},
            {step: curves[step] for step in sorted(curves) if curves[step]},
            outcome.metrics,
        )


def write_tensorboard(trial: Trial, folder: Path) -> None:
    """One run: scalars by epoch, and what the tab of hyperparameters shows."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    with SummaryWriter(str(folder)) as writer:
        for step, metrics in trial.curves.items():
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
        for name, value in trial.final.items():
            writer.add_scalar(name, value, max(trial.curves, default=0))
        # `add_hparams` also lists the names, run by run, and TensorBoard takes the list of the first run for
        # all: those of another base would not be shown.
        _, started, ended = hparams(dict(trial.searched), {})  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(started)
        writer.file_writer.add_summary(ended)


def write_wandb(trial: Trial, folder: Path) -> None:
    """One run of the project that the study's name is; ``WANDB_MODE=offline`` needs no network."""
    import wandb

    folder.mkdir(parents=True)
    settings = {**trial.experiment, "base": trial.searched["base"], "status": trial.searched["status"]}
    with wandb.init(project=trial.study, name=trial.name, dir=folder, config=settings) as run:
        for step, metrics in trial.curves.items():
            run.log(dict(metrics), step=step)
        run.summary.update(dict(trial.final))


WRITERS = {"tensorboard": write_tensorboard, "wandb": write_wandb}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A study's curves for TensorBoard or W&B.")
    parser.add_argument("study", help="a study's name")
    parser.add_argument("--to", choices=WRITERS, default="tensorboard")
    parser.add_argument("--folder", type=Path, default=Path("curves"))
    parser.add_argument("--store", type=Path, help="VIDCLF_STORE, else ./mlruns")
    given = parser.parse_args(arguments)
    store = find_store(given.store)
    found = list(trials(store, given.study))
    if not found:
        parser.error(f"{store.folder}: no trial of a study {given.study!r} has ended here")
    folder = given.folder / given.to / given.study
    new = [trial for trial in found if not (folder / trial.number).exists()]
    for trial in new:
        WRITERS[given.to](trial, folder / trial.number)
    print(f"{folder}: {len(new)} new, {len(found) - len(new)} were there")


if __name__ == "__main__":
    main()
