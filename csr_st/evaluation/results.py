"""The figures of an evaluation: `Evaluation` is the data, `Evaluation.table` the text.

`csr_st.evaluation.plots.draw` is the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csr_st._io.files import write_atomically
from csr_st.evaluation.tuning import Tuning

RECALL_DEPTHS = (10, 5, 1)
FEW = 100  # documents or queries below which a figure comes with a caution
METHODS = {
    "symmetric": "sparse, query at k",
    "query_4k": "sparse, query at 4k",
    "rescored": "rescored through the decoder",
    "codes_and_words": "sparse, query at 4k, and words",
    "pca": "PCA to k dimensions",
    "truncation": "first k dimensions",
    "words": "words alone (BM25)",
    "dense_and_words": "full dense vector and words",
}
SPARSE_METHODS = ("symmetric", "query_4k", "rescored")
WORD_METHODS = ("codes_and_words", "words", "dense_and_words")  # where texts were given
METRICS = {
    **{f"recall@{n}": f"Recall@{n} of the dense neighbours" for n in RECALL_DEPTHS},
    "ndcg@10": "nDCG@10",
    "accuracy": "5-NN accuracy",
}


@dataclass(frozen=True)
class Evaluation:
    """Measured quality and cost of one head.

    Attributes:
        ks: Active latents of a document, and dimensions of the dense baselines.
        n_documents: Documents searched.
        n_queries: Queries.
        input_dim: Width of the dense vectors.
        hidden_dim: Number of latents.
        rescore: Candidates re-ranked in the "rescored" rows, found with the query at 4k.
        fvu: Unexplained fraction of the documents' variance, by k.
        dead_fraction: Fraction of latents that no document activates, by k.
        bytes_per_item: Bytes of a stored code (float16 values), by k.
        dense_bytes_per_item: Bytes of a dense float32 vector.
        dense: The full dense vector's figure, by metric.
        scores: Figure by metric, method and k; see `METRICS` and `METHODS`. Those of `WORD_METHODS`
            are there where texts were given; what needs no codes has the same figure at every k.
        about: What was measured: model, data, training, in words.
        tuning: A weight of words chosen by the queries, where it was asked for.
    """

    ks: tuple[int, ...]
    n_documents: int
    n_queries: int
    input_dim: int
    hidden_dim: int
    rescore: int
    fvu: dict[int, float]
    dead_fraction: dict[int, float]
    bytes_per_item: dict[int, int]
    dense_bytes_per_item: int
    dense: dict[str, float]
    scores: dict[str, dict[str, dict[int, float]]]
    about: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None

    def save(self, path: str | Path) -> None:
        """Write JSON, complete or not at all."""
        data = asdict(self)
        if self.tuning is None:  # unknown to the first readers of the file
            del data["tuning"]
        write_atomically(Path(path), json.dumps(data, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is not such JSON.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            data["ks"] = tuple(data["ks"])
            for name in ("fvu", "dead_fraction", "bytes_per_item"):
                data[name] = _integer_keys(data[name])
            data["scores"] = {
                metric: {method: _integer_keys(row) for method, row in rows.items()}
                for metric, rows in data["scores"].items()
            }
            if data.get("tuning") is not None:
                data["tuning"] = Tuning(**data["tuning"])
            return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved evaluation: {error}") from error

    def table(self, metric: str | None = None) -> str:
        """Markdown, one line per method and one column per k; of `main_metric` when None."""
        metric = metric or self.main_metric
        lines = [
            f"| {METRICS[metric]} (dense: {100 * self.dense[metric]:.1f}) | "
            + " | ".join(f"k={k}" for k in self.ks)
            + " |",
            "| --- |" + " ---: |" * len(self.ks),
        ]
        for method, row in self.scores[metric].items():
            cells = (f"{100 * row[k]:.1f}" if k in row else "" for k in self.ks)
            lines.append(f"| {METHODS[method]} | " + " | ".join(cells) + " |")
        cost = (f"{self.bytes_per_item[k]:,}" for k in self.ks)
        lines.append(
            f"| bytes per item (dense: {self.dense_bytes_per_item:,}) | " + " | ".join(cost) + " |"
        )
        return "\n".join(lines)

    @property
    def main_metric(self) -> str:
        """The metric nearest to what users see: judged quality before neighbour recall."""
        return next(m for m in ("ndcg@10", "accuracy", *METRICS) if m in self.scores)

    @property
    def caution(self) -> str | None:
        """What to say beside figures of few rows; None where there are enough."""
        if min(self.n_documents, self.n_queries) >= FEW:
            return None
        points = 50 / math.sqrt(self.n_queries)  # of a share of one half
        return (
            f"Too few rows for a reliable figure: {self.n_documents:,} documents and "
            f"{self.n_queries:,} queries, a standard error of up to {points:.0f} points."
        )

    def kept(self, method: str, k: int, metric: str | None = None) -> float:
        """Fraction of the full dense vector's figure that a method reaches at k."""
        metric = metric or self.main_metric
        return self.scores[metric][method][k] / max(self.dense[metric], 1e-12)


def _integer_keys(row: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in row.items()}
