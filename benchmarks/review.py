"""What a review of labels finds, and what it is worth: ``python -m benchmarks.review MANIFEST.csv...``

A tenth of the labels are made wrong: ``by class``, clips at random that get the next class's label, or ``by
group``, all clips of one class of a group that get another class's. `vidclf review` judges them as it judges
any manifest. ``AP`` is the average precision of its list (0.1: an order by chance), where what is not listed
is never found; ``first 10 %`` the share of the wrong labels among so many of all clips that are looked at
first. Those are mended, and the macro F1 by whole-group folds, against the true labels, is given for models
that are trained on the labels as they were flipped, as they are after that, and as they were. Means over the
seeds.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidclf.data.manifest import Entry, Manifest, read_manifest
from vidclf.data.splitting import every_fold, group_of
from vidclf.evaluation import metrics
from vidclf.review.questions import label_questions
from vidclf.review.retrain import FOLDS, cross_validate, quick_experiments

SEEDS = 5
SHARE = 0.1
"""Of the labels that are made wrong, and of the clips that are looked at."""


def flipped(entries: Sequence[Entry], by: str, seed: int) -> dict[str, str]:
    """The wrong label of each of a tenth of the clips, by name."""
    generator = np.random.default_rng(seed)
    classes = sorted({entry.label for entry in entries})
    wrong: dict[str, str] = {}
    if by == "class":
        for place in generator.permutation(len(entries))[: round(SHARE * len(entries))]:
            entry = entries[place]
            wrong[entry.name] = classes[(classes.index(entry.label) + 1) % len(classes)]
        return wrong
    parts = sorted({(group_of(entry), entry.label) for entry in entries})
    for place in generator.permutation(len(parts)):
        if len(wrong) >= SHARE * len(entries):
            break
        group, label = parts[place]
        other = str(generator.choice([name for name in classes if name != label]))
        members = [entry for entry in entries if (group_of(entry), entry.label) == (group, label)]
        wrong |= {entry.name: other for entry in members}
    return wrong


def labelled(entries: Sequence[Entry], labels: Mapping[str, str]) -> list[Entry]:
    return [replace(entry, label=labels.get(entry.name, entry.label)) for entry in entries]


def score(manifest: Manifest, entries: Sequence[Entry], labels: Mapping[str, str]) -> float:
    """Macro F1 against the true labels, of models that are trained on these labels."""
    folds = [
        [
            replace(each, label=labels.get(each.name, each.label)) if each.split == "train" else each
            for each in fold
        ]
        for fold in every_fold(entries, FOLDS)
    ]
    experiment = next(iter(quick_experiments(str(manifest.path.absolute())).values()))
    table = cross_validate(experiment, folds, manifest.classes)
    place = {name: index for index, name in enumerate(manifest.classes)}
    truth, guesses = (
        np.array([place[name] for name in table[column]], dtype=np.int64) for column in ("label", "predicted")
    )
    return metrics.macro_f1(truth, guesses)


def measured(manifest: Manifest, by: str, seed: int) -> list[float]:
    """AP, share found first, share listed; macro F1 as flipped, after the review, never flipped."""
    entries = [replace(entry, split="train") for entry in manifest.entries]
    wrong = flipped(entries, by, seed)
    noisy = labelled(entries, wrong)
    folds = every_fold(noisy, FOLDS)
    tables = [
        (name, cross_validate(experiment, folds, manifest.classes))
        for name, experiment in quick_experiments(str(manifest.path.absolute())).items()
    ]
    asked = [question.clips[0].name for question in label_questions(noisy, [tables])]
    hits = np.array([name in wrong for name in asked])
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    looked = set(asked[: round(SHARE * len(entries))])
    left = {name: label for name, label in wrong.items() if name not in looked}
    return [
        float(precision[hits].sum()) / len(wrong),
        1 - len(left) / len(wrong),
        len(asked) / len(entries),
        *(score(manifest, entries, labels) for labels in (wrong, left, {})),
    ]


def main(paths: Sequence[Path]) -> None:
    print(f"{'':42}{'AP':>7}{'first 10 %':>12}{'listed':>8}{'flipped':>9}{'reviewed':>10}{'true':>7}")
    for path in paths:
        manifest = read_manifest(path)
        groups = len({group_of(entry) for entry in manifest.entries})
        name = f"{path.parent.name}, {len(manifest.entries)} clips, {groups} groups"
        for by in ("class", "group"):
            means = np.mean([measured(manifest, by, seed) for seed in range(SEEDS)], axis=0)
            widths = (7, 12, 8, 9, 10, 7)
            shown = "".join(f"{value:{width}.3f}" for value, width in zip(means, widths, strict=True))
            print(f"{f'{name}, by {by}':42}{shown}", flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
