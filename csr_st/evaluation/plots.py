"""The picture of an evaluation: quality against k, one line per method."""

from __future__ import annotations

from pathlib import Path

from csr_st._io.files import atomic_path
from csr_st.evaluation.results import METHODS, METRICS, Evaluation

STYLES = {
    "rescored": ("#0b5fa5", "o", "-"),
    "query_4k": ("#2a9d8f", "s", "-"),
    "symmetric": ("#7a5195", "^", "-"),
    "codes_and_words": ("#c1272d", "P", "-"),
    "pca": ("#c77d0a", "D", "--"),
    "truncation": ("#8a8a8a", "v", "--"),
    "words": ("#e78ac3", "", ":"),
    "dense_and_words": ("#5b3a1e", "", ":"),
}


def draw(evaluation: Evaluation, path: str | Path, metric: str | None = None) -> None:
    """Write a PNG, complete or not at all.

    Args:
        evaluation: The figures.
        path: File to write.
        metric: Key of `METRICS`, the evaluation's `main_metric` when None.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "csr-st[plots]"') from error
    metric = metric or evaluation.main_metric
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, (colour, marker, line) in STYLES.items():
        row = evaluation.scores[metric].get(method, {})
        if row:
            figures = [100 * value for value in row.values()]
            axes.plot(list(row), figures, line, color=colour, marker=marker, label=METHODS[method])
    dense = 100 * evaluation.dense[metric]
    label = f"full dense vector, {evaluation.input_dim} dimensions: {dense:.1f}"
    axes.axhline(dense, color="black", linewidth=1, linestyle=":", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(evaluation.ks, [str(k) for k in evaluation.ks])
    axes.set_xlabel("k, active latents or dimensions per document")
    axes.set_ylabel(METRICS[metric])
    axes.set_ylim(0, max(dense * 1.05, axes.get_ylim()[1]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    with atomic_path(Path(path)) as part:
        figure.savefig(part, format="png", dpi=150)
