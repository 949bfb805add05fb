"""The whole path in one call: a model and data in, a model with a measured head out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st._io.files import write_atomically
from csr_st.attaching import attach, detach
from csr_st.config import TrainConfig, recipe
from csr_st.data.images import image_columns
from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.joining import joined
from csr_st.encoding import encode_dense
from csr_st.evaluation.latency import SearchTime, search_time
from csr_st.evaluation.modalities import SideReport, evaluate_pairs, shift_of
from csr_st.evaluation.quality import LEAST, Evaluation, evaluate
from csr_st.head import SparseCSRHead, find_head
from csr_st.publishing.hub import save
from csr_st.training.loop import TrainResult, train
from csr_st.training.modalities import train_pairs
from csr_st.vectors import VectorInput

HELD_OUT = 0.1  # share of the vectors that training never sees
MAX_HELD_OUT = 5_000
MAX_WATCHED = 2_000  # of the rest, what patience goes by: encoded often, so that fewer must do
SEARCHED, ASKED = 20_000, 200  # vectors and queries that the card's time of a search is of
SIDES_NAME = "two_sided.md"


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        model: The backbone with its head.
        result: The head's training.
        evaluation: Figures on vectors that training never saw.
        path: Where the model was saved.
        sides: With pairs of images and texts: figures across both.
    """

    model: SentenceTransformer
    result: TrainResult
    evaluation: Evaluation
    path: Path
    sides: SideReport | None = None


@dataclass(frozen=True)
class _Run:
    """What a run is given beside its vectors; the names are those of `train_model`."""

    model: SentenceTransformer
    folder: Path
    config: TrainConfig
    data_name: str
    base_model: str | None
    resume: bool
    facts: Mapping[str, Any]

    @property
    def about(self) -> str:
        """What the figures are measured on, in words."""
        return f"held-out rows of {self.data_name}".removesuffix(" of ")

    def finish(
        self,
        result: TrainResult,
        evaluation: Evaluation,
        sides: SideReport | None = None,
        search: SearchTime | None = None,
    ) -> Trained:
        """Put the head on the model and save both with their figures."""
        sparse = attach(self.model, result.head, base_model=self.base_model)
        found = {"data": self.data_name, "seconds": result.seconds, "search": search}
        given = {**found, **self.facts}
        save(sparse, self.folder, evaluation=evaluation, config=result.config, **given)
        return Trained(sparse, result, evaluation, self.folder, sides)


def train_model(
    model: SentenceTransformer,
    data: Any,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    data_name: str = "",
    base_model: str | None = None,
    batch_size: int = 64,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Trained:
    """Embed once, train, measure on held-out rows, save with card and picture.

    With ``config.patience`` a tenth of the rows that are left, at most 2,000, decides when to stop
    and which head is kept; the head learns from none of them, and no figure is measured on them.

    Args:
        model: The backbone. One that has a head already keeps its backbone and gets a new head.
        data: What `EmbeddingStore.embed` takes.
        output: Folder of the finished model; vectors and checkpoints are kept in it.
        config: How to train, the default recipe when None.
        data_name: Words for the data on the card.
        base_model: Hub id of the backbone, found from the model when None.
        batch_size: Items that the backbone takes at once.
        resume: Go on from the last checkpoint in ``output``.
        facts: Further fields of `csr_st.publishing.model_card.CardFacts`.
        columns: ``text_column``, ``label_column``, ``pair_columns`` and ``score_column``.

    Returns:
        The model with its figures.

    Raises:
        ValueError: If data or settings are not valid; see `EmbeddingStore.embed` and `train`.
    """
    folder = Path(output)
    if isinstance(list(model.children())[-1], SparseCSRHead):
        model = detach(model)
    settings = config or recipe()
    run = _Run(model, folder, settings, data_name, base_model, resume, facts or {})
    modalities = _modalities_of(data, columns.get("pair_columns"))
    if modalities is not None:
        sides = {
            modality: EmbeddingStore.embed(
                model, data, folder / "vectors" / modality, text_column=name, batch_size=batch_size
            )
            for modality, name in modalities.items()
        }
        return _train_on_sides(sides, run)
    store = EmbeddingStore.embed(model, data, folder / "vectors", batch_size=batch_size, **columns)
    return _train_on(store, run)


def train_vectors(
    vectors: str | Path | EmbeddingStore,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    column: str | None = None,
    label_column: str | None = None,
    data_name: str = "",
    base_model: str | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Trained:
    """Train on vectors that exist already; the model that is saved encodes vectors.

    Rows are held out, and ``config.patience`` served, as by `train_model`.
    ``csr_st.attach(backbone, csr_st.find_head(model))`` puts its head on the model that the vectors
    came from, should there be one for sentence-transformers.

    Args:
        vectors: A file or folder for `EmbeddingStore.open`, or a store.
        output: Folder of the finished model; checkpoints are kept in it.
        config: How to train, the default recipe when None.
        column: Column or array of the vectors, where a file has several.
        label_column: Column or array of classes to learn from.
        data_name: Words for the data on the card.
        base_model: Hub id of the model that the vectors came from.
        resume: Go on from the last checkpoint in ``output``.
        facts: Further fields of `csr_st.publishing.model_card.CardFacts`.

    Returns:
        The model with its figures.

    Raises:
        FileNotFoundError: If there is nothing at ``vectors``.
        ValueError: If the vectors or settings are not valid; see `EmbeddingStore.open` and `train`.
    """
    if not isinstance(vectors, EmbeddingStore):
        vectors = EmbeddingStore.open(vectors, column=column, label_column=label_column)
    model = SentenceTransformer(modules=[VectorInput(vectors.dim)])
    settings = config or recipe()
    run = _Run(model, Path(output), settings, data_name, base_model, resume, facts or {})
    return _train_on(vectors, run)


def _train_on(store: EmbeddingStore, run: _Run) -> Trained:
    """Train on the vectors of a store, measure, and save the model with its head."""
    training, held_out = store.split(_rows_to_measure(len(store)))
    watched = None
    if run.config.patience:
        training, watched = training.split(_rows_to_watch(len(training)))
    result = train(training, run.config, validation=watched, output=run.folder, resume=run.resume)
    evaluation = evaluate_held_out(result.head, training, held_out, {"data": run.about})
    search = search_time(result.head, training.sample(SEARCHED), held_out.sample(ASKED))
    return run.finish(result, evaluation, search=search)


def _rows_to_measure(n: int) -> int:
    """How many of n rows the figures are measured on."""
    return min(max(LEAST, round(HELD_OUT * n)), MAX_HELD_OUT)


def _rows_to_watch(n: int) -> int:
    """How many of n rows that are left tell patience when to stop."""
    return min(max(1, round(HELD_OUT * n)), MAX_WATCHED)


def _modalities_of(data: Any, pair: tuple[str, str] | None) -> dict[str, str] | None:
    """Columns by modality where a pair is of an image and a text."""
    pictures = set(image_columns(getattr(data, "features", None))) & set(pair or ())
    if pair is None or len(pictures) != 1:
        return None
    return {"image" if name in pictures else "text": name for name in pair}


def _train_on_sides(sides: dict[str, EmbeddingStore], run: _Run) -> Trained:
    """Train one head on both sides of pairs, measure across and within, save as `_train_on`."""
    config = run.config
    config = replace(config, support_weight=config.support_weight or config.two_modality_support)
    n = min(map(len, sides.values()))
    held = _rows_to_measure(n)
    order = np.random.default_rng(0).permutation(n)
    watched = _rows_to_watch(n - held) if config.patience else 0
    asked, judging, known = (np.sort(part) for part in np.split(order, [held, held + watched]))
    training = {name: side.subset(known) for name, side in sides.items()}
    options: dict[str, Any] = {"output": run.folder, "resume": run.resume}
    if watched:
        options["validation"] = _shifted(sides, judging, joined(list(training.values()))[1])
    result = train_pairs(training, config, **options)
    held_out = {name: side.rows(asked) for name, side in sides.items()}
    report = evaluate_pairs(result.head, held_out)
    name = next(iter(held_out))
    centred = {side: v - shift_of(result.head, side) for side, v in held_out.items()}
    evaluation = evaluate(
        result.head,
        centred[name],
        fit_on=training[name].sample(20_000) - shift_of(result.head, name),
        about={"data": f"{name}s of {run.about}, their mean taken out"},
    )
    done = run.finish(result, evaluation, report)
    text = f"# {run.about}, across modalities\n\n{report.table()}\n"
    write_atomically(run.folder / SIDES_NAME, text)
    return done


def _shifted(
    sides: Mapping[str, EmbeddingStore], rows: NDArray[np.int64], shifts: NDArray[np.float32]
) -> EmbeddingStore:
    """Rows of both sides in the space that the head is trained in."""
    parts = [side.rows(rows) - shift for side, shift in zip(sides.values(), shifts, strict=True)]
    return EmbeddingStore.from_array(np.concatenate(parts))


def evaluate_held_out(
    head: SparseCSRHead,
    training: EmbeddingStore,
    held_out: EmbeddingStore,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure on rows that training never saw.

    With labels, held-out rows ask and up to 20,000 training rows answer, as a k-NN classifier
    would have it; rows whose class is unknown do neither. Without, or with too few, held-out rows
    are searched by one another.
    """
    fit_on = training.sample(20_000)
    known, asked = _labelled(training), _labelled(held_out)[:1000]
    if training.labels is None or held_out.labels is None or len(known) < LEAST or not len(asked):
        return evaluate(head, held_out.vectors(), fit_on=fit_on, about=about)
    rows = np.random.default_rng(0).permutation(known)[:20_000]
    return evaluate(
        head,
        training.rows(rows),
        held_out.rows(asked),
        document_labels=training.labels[rows],
        query_labels=held_out.labels[asked],
        fit_on=fit_on,
        about=about,
    )


def _labelled(store: EmbeddingStore) -> NDArray[np.int64]:
    """The rows whose class is known."""
    return np.flatnonzero([] if store.labels is None else store.labels >= 0)


def evaluate_model(
    model: SentenceTransformer,
    documents: Any,
    queries: Any = None,
    relevant: list[dict[int, float]] | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Embed documents and queries with a model's backbone and measure its head on them.

    Args:
        model: A model with a head.
        documents: Inputs to search.
        queries: Inputs that ask; documents ask one another when None.
        relevant: For each query the gain of each relevant document, by row.
        about: Words to keep with the figures.
        batch_size: Items that the backbone takes at once.

    Raises:
        ValueError: If the model has no head, or there are too few documents.
    """
    head = find_head(model)
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": True}
    vectors = encode_dense(model, documents, role="document", **options)
    asked = None if queries is None else encode_dense(model, queries, role="query", **options)
    return evaluate(head, vectors, asked, relevant=relevant, about=about)
