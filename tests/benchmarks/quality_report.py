"""Tables and figure of the quality benchmark."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from quality_methods import KS, Row

Key = tuple[str, str]


def report(rows: list[Row], overall: bool = False) -> None:
    """Print one table per task, or one of the means over the complete data sets."""
    if overall:
        whole = [row for row in rows if "unseen" not in row.task]
        _table("mean over the sets, unlabelled unless it says supervised", _means(whole, True))
        return
    for task in dict.fromkeys(row.task for row in rows):
        chosen = [row for row in rows if row.task == task]
        _table(f"{task}, {chosen[0].metric}", _means(chosen, False), chosen)


def _means(rows: list[Row], across_tasks: bool) -> dict[Key, dict[int, tuple[float, float]]]:
    """Mean and deviation over seeds of each method and scoring."""
    groups: dict[Key, dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        for scoring, figures in row.figures.items():
            for k, value in figures.items():
                groups[row.method, scoring][row.task][k].append(value)
    tasks = {row.task for row in rows}
    means = {}
    for key, by_task in groups.items():
        if across_tasks and set(by_task) != tasks:
            continue  # a mean over other sets would not be comparable
        means[key] = {
            k: (
                float(np.mean([np.mean(v[k]) for v in by_task.values() if k in v])),
                float(np.mean([np.std(v[k]) for v in by_task.values() if k in v])),
            )
            for k in KS
            if any(k in v for v in by_task.values())
        }
    return means


def _table(
    title: str, means: dict[Key, dict[int, tuple[float, float]]], rows: list[Row] | None = None
) -> None:
    print(f"\n### {title}\n")
    extra = " seeds | steps x batch | seconds | dead at 2, 32 |" if rows else ""
    print("| method | scoring | " + " | ".join(f"k={k}" for k in KS) + f" |{extra}")
    print("| --- | --- |" + " ---: |" * len(KS) + (" --- |" * 4 if rows else ""))
    for (method, scoring), figures in means.items():
        cells = (f"{figures[k][0]:.1f}" if k in figures else "" for k in KS)
        print(f"| {method} | {scoring} | " + " | ".join(cells) + " |" + _cost(method, rows))


def _cost(method: str, rows: list[Row] | None) -> str:
    if not rows:
        return ""
    own = [row for row in rows if row.method == method]
    seconds = float(np.median([row.seconds for row in own]))
    dead = ""
    if own[0].dead:
        dead = ", ".join(f"{np.mean([row.dead[k] for row in own]):.1f}%" for k in (2, 32))
    return f" {len(own)} | {own[0].steps} x {own[0].batch} | {seconds:.0f} | {dead} |"


def draw(rows: list[Row], path: Path) -> None:
    """Figure against k, one panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = [task for task in dict.fromkeys(row.task for row in rows) if "unseen" not in task]
    figure, panels = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.6), squeeze=False)
    for axes, task in zip(panels[0], tasks, strict=True):
        chosen = [row for row in rows if row.task == task]
        for (method, scoring), figures in _means(chosen, False).items():
            if scoring in ("symmetric", "full", "decoded") and "k=" not in method:
                style = ":" if scoring == "full" else "--" if scoring == "decoded" else "-"
                values = [figures[k][0] for k in figures]
                axes.plot(list(figures), values, style, marker=".", label=f"{method}, {scoring}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(KS, [str(k) for k in KS])
        axes.set_title(f"{task} ({chosen[0].metric})", fontsize=10)
    panels[0][-1].legend(fontsize=6, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
