"""Tables and picture of the benchmark against the alternatives."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from alternatives_peers import BUDGETS

# The lines of the picture, by how the name of a family begins.
LINES = {
    "ours + ": ("ours with residual bits", "tab:red", "o"),
    "ours": ("ours", "tab:orange", "o"),
    "PQ": ("PQ", "tab:blue", "s"),
    "OPQ": ("OPQ", "tab:cyan", "s"),
    "RQ": ("residual quantizer", "tab:olive", "s"),
    "RaBitQ": ("RaBitQ", "tab:purple", "^"),
    "TurboQuant": ("TurboQuant", "tab:pink", "^"),
    "PCA": ("PCA, few bits", "tab:green", "v"),
    "rotated": ("rotated, few bits", "tab:brown", "v"),
    "ITQ": ("ITQ", "tab:gray", "v"),
    "binary + ": ("binary + int8", "black", "D"),
    "binary": ("binary", "black", "x"),
    "1 bit": ("binary", "black", "x"),
    "int": ("int8, int4", "darkblue", "*"),
}


class Mean(NamedTuple):
    """One method with its setting and scoring on one set, mean over the seeds."""

    set: str
    family: str
    setting: str
    scoring: str
    bytes: float
    figure: float
    recall: float

    @property
    def ours(self) -> bool:
        return self.family.startswith("ours")

    @property
    def name(self) -> str:
        return f"{self.family} {self.setting}, {self.scoring}"


def tables(rows: list[Any], times: list[dict[str, Any]]) -> str:
    """All tables in Markdown."""
    means = averaged(rows)
    metrics = {row.set: row.metric for row in rows}
    dense = {mean.set: mean.figure for mean in means if _is_dense(mean)}
    parts, learnt = [], [mean for mean in means if mean.family == "RQ"]
    means = [mean for mean in means if mean.family != "RQ"]
    if means:
        given = ", ".join(f"{name} {metrics[name]}" for name in metrics)
        parts.append(_best_table(f"Best at most at that many bytes: {given}", means, 5, dense))
        parts.append(_best_table("Best recall@10 of the dense neighbours", means, 6, {}))
        parts.append(_one_for_all(means))
    if learnt:
        parts.append(_large_tables(rows, learnt))
    if times:
        parts.append(_times(times))
    return "\n".join(parts)


def averaged(rows: list[Any]) -> list[Mean]:
    groups = defaultdict(list)
    for row in rows:
        groups[row.set, row.family, row.setting, row.scoring].append(row)
    return [
        Mean(
            *key,
            max(row.bytes for row in group),
            float(np.mean([row.figure for row in group])),
            float(np.mean([row.recall for row in group])),
        )
        for key, group in groups.items()
    ]


def _is_dense(mean: Mean) -> bool:
    return (mean.family, mean.setting, mean.scoring) == ("dense", "float32", "dot")


def _best(means: list[Mean], budget: int, place: int) -> Mean | None:
    allowed = [mean for mean in means if mean.bytes <= budget]
    return max(allowed, key=lambda mean: (mean[place], -mean.bytes), default=None)


def _best_table(title: str, means: list[Mean], place: int, dense: dict[str, float]) -> str:
    """The best peer and the best of ours per budget and set; ``place`` of the figure in Mean."""
    lines = [
        f"\n### {title}\n",
        "| bytes | set | best peer | | best of ours | | difference |",
        "| ---: | --- | --- | ---: | --- | ---: | ---: |",
    ]
    sets = list(dict.fromkeys(mean.set for mean in means))
    for budget in BUDGETS:
        pairs = {}
        for name in sets:
            sides = ([m for m in means if m.set == name and m.ours == ours] for ours in (0, 1))
            pairs[name] = peer, own = [_best(side, budget, place) for side in sides]
            cells = [f"{budget}", name, *_cells(peer, place), *_cells(own, place)]
            cells.append(f"{own[place] - peer[place]:+.1f}" if peer and own else "")
            lines.append("| " + " | ".join(cells) + " |")
        cells = [f"**{budget}**", "**mean**"]
        for side in (0, 1):
            found = {name: pair[side][place] for name, pair in pairs.items() if pair[side]}
            shares = [100 * value / dense[name] for name, value in found.items() if name in dense]
            cells.append(f"{np.mean(shares):.1f}% of dense" if shares else "")
            cells.append(f"**{np.mean(list(found.values())):.1f}**" if found else "")
        both = [own[place] - peer[place] for peer, own in pairs.values() if peer and own]
        cells.append(f"**{np.mean(both):+.1f}**" if both else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(best: Mean | None, *places: int) -> list[str]:
    """Name and size of a method, and some of its figures; empty if there is none."""
    if best is None:
        return (1 + len(places)) * [""]
    return [f"{best.name}, {best.bytes:.0f}", *(f"{best[place]:.1f}" for place in places)]


def _one_for_all(means: list[Mean]) -> str:
    """The setting that is best on average, the same one for all sets."""
    sets = {mean.set for mean in means}
    groups = defaultdict(list)
    for mean in means:
        groups[mean.family, mean.setting, mean.scoring].append(mean)
    overall = [
        Mean(
            "all",
            *key,
            max(mean.bytes for mean in group),
            float(np.mean([mean.figure for mean in group])),
            float(np.mean([mean.recall for mean in group])),
        )
        for key, group in groups.items()
        if {mean.set for mean in group} == sets
    ]
    lines = [
        "\n### One setting for all sets: the best by the mean of the figures\n",
        "| bytes | best peer | figure | recall@10 | best of ours | figure | recall@10 |",
        "| ---: | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for budget in BUDGETS:
        cells = [f"{budget}"]
        for ours in (False, True):
            best = _best([mean for mean in overall if mean.ours == ours], budget, 5)
            cells += _cells(best, 5, 6)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _large_tables(rows: list[Any], means: list[Mean]) -> str:
    """Residual quantization, whose tables are as large as a small set, with the size of them."""
    fixed = {(row.set, row.setting): row.fixed / 1e6 for row in rows if row.family == "RQ"}
    ours = {row.set: row.fixed / 1e6 for row in rows if row.family.startswith("ours")}
    lines = [
        "\n### Residual quantization, in no other table; tables in MB\n",
        "| set | bytes | figure | recall@10 | its tables | those of ours |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {mean.set} | {mean.bytes:.0f} | {mean.figure:.1f} | {mean.recall:.1f} | "
        f"{fixed[mean.set, mean.setting]:.1f} | "
        + (f"{ours[mean.set]:.1f} |" if mean.set in ours else "|")
        for mean in means
        if mean.scoring == "cosine"
    ]
    return "\n".join(lines)


def _times(times: list[dict[str, Any]]) -> str:
    sets = list(dict.fromkeys(time["set"] for time in times))
    documents = {time["set"]: time["documents"] for time in times}
    titles = [f"{name} ({documents[name]:,}) | build" for name in sets]
    lines = [
        "\n### Microseconds a query, median, one thread; build in seconds\n",
        "| method | " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * (2 * len(sets)),
    ]
    for method in dict.fromkeys((time["family"], time["setting"]) for time in times):
        cells = []
        for name in sets:
            found = [
                time
                for time in times
                if time["set"] == name and (time["family"], time["setting"]) == method
            ]
            cells += [
                f"{time['microseconds']:.0f} | {time['build_seconds']:.2f}" for time in found
            ] or [" | "]
        lines.append("| " + " ".join(method) + " | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[Any], path: Path) -> None:
    """Figure and recall against bytes, one line a method: the best that it has at most there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    means = averaged(rows)
    if not means:
        return
    metrics = {row.set: row.metric for row in rows}
    figure, panels = plt.subplots(
        2, len(metrics), figsize=(4.2 * len(metrics), 8), squeeze=False, sharex=True
    )
    labels = {}
    for column, name in enumerate(metrics):
        chosen = [mean for mean in means if mean.set == name]
        for place, axes in ((5, panels[0][column]), (6, panels[1][column])):
            for label, colour, marker, xs, ys in _lines(chosen, place):
                width = 2.4 if label.startswith("ours") else 1.2
                labels[label] = axes.plot(
                    xs, ys, marker=marker, color=colour, linewidth=width, markersize=4
                )[0]
            if place == 5:
                level = next((mean.figure for mean in chosen if _is_dense(mean)), None)
                if level is not None:
                    labels["dense"] = axes.axhline(level, color="black", linestyle=":")
            best = [mean[place] for mean in chosen if mean.bytes <= BUDGETS[-1]]
            axes.set_ylim(max(min(best), max(best) - 20), max(best) + 1.5)
            axes.set_xscale("log", base=2)
            axes.set_xlim(BUDGETS[0] * 0.7, 500)
            axes.set_xticks([*BUDGETS, 192, 384], [str(size) for size in (*BUDGETS, 192, 384)])
            axes.tick_params(labelsize=9)
            axes.grid(alpha=0.3)
        panels[0][column].set_title(f"{name}: {metrics[name]}", fontsize=12)
        panels[1][column].set_title(f"{name}: recall@10 of dense", fontsize=12)
        panels[1][column].set_xlabel("bytes a document", fontsize=11)
    figure.legend(
        labels.values(), labels.keys(), loc="lower center", ncols=min(7, 1 + 2 * len(metrics))
    )
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(means: list[Mean], place: int):
    """Label, colour, marker, bytes and best figures of each line of one panel."""
    groups = defaultdict(list)
    for mean in means:
        style = next((style for start, style in LINES.items() if mean.family.startswith(start)), 0)
        if style:
            groups[style].append(mean)
    for style in dict.fromkeys(LINES.values()):
        xs, ys = [], []
        for mean in sorted(groups.get(style, []), key=lambda mean: (mean.bytes, -mean[place])):
            if not ys or mean[place] > ys[-1]:
                if xs and xs[-1] == mean.bytes:
                    continue
                xs.append(mean.bytes)
                ys.append(mean[place])
        if xs:
            yield *style, xs, ys
