"""Plots of training results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from libra_guard.errors import require

_SHOWN = ("accuracy", "f1_unsafe", "auc", "over_refusal")
_TITLES = {"accuracy": "accuracy", "f1_unsafe": "F1-unsafe", "auc": "AUC", "over_refusal": "safe pairs flagged"}


def plot_ablation(path: Path, results: dict[str, Any], *, system: str = "guard") -> None:
    """Draws a panel for each metric: sets from left to right, one bar a variant, its standard deviation on top.

    Args:
        path: Of the SVG file.
        results: Variant → system → set → metric → ``mean`` and ``sd`` (None of a single run), as in ``ablation.json``.
        system: Which part of a guard is shown.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "train")
    shown = {name: systems[system] for name, systems in results.items()}
    sets = list(next(iter(shown.values())))
    # Where nothing is unsafe, an F1 of it can only be 0; such a set has no AUC.
    needed = {metric: {metric, "auc"} if metric == "f1_unsafe" else {metric} for metric in _SHOWN}
    panels = {m: [s for s in sets if all(needed[m] <= found[s].keys() for found in shown.values())] for m in _SHOWN}
    panels = {metric: names for metric, names in panels.items() if names}
    figure = figures.Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    width = 0.8 / len(shown)
    for axes, (metric, names) in zip(np.atleast_1d(figure.subplots(len(panels))), panels.items(), strict=True):
        for number, (variant, found) in enumerate(shown.items()):
            places = np.arange(len(names)) + (number - (len(shown) - 1) / 2) * width
            cells = [found[name][metric] for name in names]
            errors = None if any(cell["sd"] is None for cell in cells) else [cell["sd"] for cell in cells]
            axes.bar(places, [cell["mean"] for cell in cells], width, yerr=errors, capsize=2, label=variant)
        axes.set_ylabel(_TITLES[metric])
        axes.set_xticks(np.arange(len(names)), [name.removesuffix(" (pair)").replace(" (", "\n(") for name in names])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(shown)))
    # Without the date, and with ids that are not drawn at random, the same results make the same bytes.
    with require("matplotlib", "train").rc_context({"svg.hashsalt": "libra"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
