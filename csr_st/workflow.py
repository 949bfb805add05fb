"""Train, evaluate and save in one call: a model and data in, a model with a measured head out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st._io.files import check_writable, write_atomically
from csr_st._io.openmp import patient_openmp
from csr_st._io.optional import OptionalStep
from csr_st.attaching import attach, detach
from csr_st.config import TrainConfig, recipe
from csr_st.data.mixing import Mixture, facts_read
from csr_st.embed_and_train import Run, embed_and_train
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.evaluation.cross_modal import SideReport, evaluate_pairs, shift_of
from csr_st.evaluation.distance import held_out_fvu
from csr_st.evaluation.held_out import SAMPLE, evaluate_held_out, evaluate_tokens
from csr_st.evaluation.latency import SearchTime, search_time
from csr_st.evaluation.quality import evaluate
from csr_st.evaluation.results import Evaluation
from csr_st.head import SparseCSRHead, find_head
from csr_st.publishing.facts import CardFacts
from csr_st.publishing.figures import update_card
from csr_st.publishing.hub import save
from csr_st.training.loop import TrainResult
from csr_st.vectors import VectorInput

SIDES_NAME = "two_sided.md"


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        model: The backbone with its head.
        result: The head's training.
        evaluation: Figures on held-out rows; None where measuring them failed, with a warning.
        path: Where the model was saved.
        sides: With pairs of images and texts: figures across both.
    """

    model: SentenceTransformer
    result: TrainResult
    evaluation: Evaluation | None
    path: Path
    sides: SideReport | None = None


@patient_openmp()
def train_model(  # public; every option belongs to one of the steps: embed, train, save
    model: SentenceTransformer,
    data: Any,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    data_name: str = "",
    base_model: str | None = None,
    batch_size: int = 64,
    resume: bool = False,
    adapted_from: str | None = None,
    facts: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Trained:
    """Embed once, train, measure on held-out rows, save with card and picture.

    With ``config.patience`` a tenth of the other rows, at most 2,000, is the validation set: it
    decides when to stop and which head is kept, and is used for nothing else.

    Args:
        model: The backbone. One that has a head already keeps its backbone and gets a new head.
        data: What `EmbeddingStore.embed` takes, such as texts or what `csr_st.mix` gives, or a
            store of the model's vectors.
        output: Folder of the finished model; vectors and checkpoints are kept in it.
        config: How to train, the default recipe when None.
        data_name: Words for the data on the card.
        base_model: Hub id of the backbone, found from the model when None.
        batch_size: Items that the backbone takes at once.
        resume: Go on from the last checkpoint in ``output``.
        adapted_from: Adapt the head that the model has, see `csr_st.adapt`, and name it so on the
            card, as by its Hub id; config may be None. Without it a new head is trained.
        facts: Further fields of `csr_st.publishing.facts.CardFacts`.
        columns: ``text_column``, ``label_column``, ``pair_columns`` and ``score_column``.

    Returns:
        The model with its figures. It is saved before anything is measured; what fails then gives a
        warning.

    Raises:
        TypeError: If ``facts`` has a name that `CardFacts` has not.
        OSError: If ``output`` cannot be written to, which is tried first.
        ValueError: If data or settings are not valid; see `EmbeddingStore.embed` and `train`.
    """
    folder, given_config, config = Path(output), config, config or recipe()
    check_writable(folder)
    former = None if adapted_from is None else find_head(model)
    known = {"model_id": "", "base_model": None, "input_dim": 1, "hidden_dim": 1, "k": 1}
    CardFacts(**{**known, **(facts or {})})  # a TypeError for a wrong name, before the work
    if isinstance(list(model.children())[-1], SparseCSRHead):
        model = detach(model)
    if isinstance(data, Mixture):
        data_name = data_name or data.name
    about = f"held-out rows of {data_name}".removesuffix(" of ")
    run = embed_and_train(
        model,
        data,
        folder,
        config,
        former=former,
        former_config=given_config,
        batch_size=batch_size,
        columns=columns,
        resume=resume,
    )
    result = run.result
    adapted_facts: dict[str, Any] = {}
    if run.kept is not None:
        adapted_facts["adapted"] = (
            f"{adapted_from}: {run.kept:.0%} of the latents that were active on these data kept "
            "their meaning"
        )
    sparse = attach(model, result.head, base_model=base_model)
    given = {
        "data": data_name,
        "seconds": result.seconds,
        **facts_read(data),
        **adapted_facts,
        **(facts or {}),
    }
    save(sparse, folder, config=result.config, **given)  # before anything that could fail
    measured = _measure(result.head, run, about, folder)
    return Trained(sparse, result, measured.evaluation, folder, measured.sides)


class _Measured(NamedTuple):
    """What could be measured of a saved model."""

    evaluation: Evaluation | None = None
    sides: SideReport | None = None


def _measure(
    head: SparseCSRHead,
    run: Run,
    about: str,
    folder: Path,
) -> _Measured:
    """Measure a head on held-out rows and put the figures into its model's folder and card.

    Each figure is optional: the model is complete without.
    """
    later = (
        f"the model in {folder} is complete but for it: train again with resume=True (csr-st train "
        f"... --resume), which goes on from there, or run csr-st evaluate {folder} DATA --output "
        f"{folder}"
    )
    evaluation: Evaluation | None = None
    sides: SideReport | None = None
    search: SearchTime | None = None
    fvu: dict[int, float] | None = None
    training, held_out = run.training, run.held_out
    if isinstance(held_out, TokenStore):
        with OptionalStep("the evaluation", later):
            most = held_out.tokens_per_text
            part = f" (at most {most} tokens of each)" if most else ""
            evaluation = evaluate_tokens(head, held_out, {"data": f"{about}{part}"})
    elif isinstance(training, dict):
        assert isinstance(held_out, dict)
        with OptionalStep("the evaluation", later):
            evaluation = _evaluate_side(head, training, held_out, about)
        with OptionalStep("the evaluation across modalities", later):
            sides = evaluate_pairs(head, held_out)
            text = f"# {about}, across modalities\n\n{sides.table()}\n"
            write_atomically(folder / SIDES_NAME, text)
    else:
        assert isinstance(held_out, EmbeddingStore)
        assert isinstance(training, EmbeddingStore)
        with OptionalStep("the evaluation", later):
            evaluation = evaluate_held_out(head, training, held_out, {"data": about})
        with OptionalStep("measuring the unexplained variance", later):
            fvu = held_out_fvu(head, held_out.vectors())
        with OptionalStep("timing the search", later):
            search = search_time(head, training.sample(SAMPLE), held_out.sample(200))
    if any(figure is not None for figure in (evaluation, search, fvu)):
        with OptionalStep("writing figures and card", later):
            update_card(folder, evaluation, search=search, fvu=fvu)
    return _Measured(evaluation, sides)


def train_vectors(  # public; the options of `train_model`
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
    """`train_model` on vectors that exist already; the model that is saved encodes vectors.

    ``csr_st.attach(backbone, csr_st.find_head(model))`` puts its head on the model that the vectors
    came from, if sentence-transformers has it.

    Args:
        vectors: A file or folder for `EmbeddingStore.open`, or a store.
        output: Folder of the finished model; checkpoints are kept in it.
        config: As for `train_model`, and so are all arguments that are not named here.
        column: Column or array of the vectors, where a file has several.
        label_column: Column or array of classes to learn from.
        data_name: Words for the data on the card.
        base_model: Hub id of the model that the vectors came from.
        resume: Go on from the last checkpoint in ``output``.
        facts: As for `train_model`.

    Returns:
        The model with its figures.

    Raises:
        FileNotFoundError: If there is nothing at ``vectors``.
        ValueError: If vectors or settings are not valid; see `EmbeddingStore.open` and `train`.
    """
    if not isinstance(vectors, EmbeddingStore):
        vectors = EmbeddingStore.open(vectors, column=column, label_column=label_column)
    return train_model(
        SentenceTransformer(modules=[VectorInput(vectors.dim)]),
        vectors,
        output,
        config,
        data_name=data_name,
        base_model=base_model,
        resume=resume,
        facts=facts,
    )


def _evaluate_side(
    head: SparseCSRHead,
    training: dict[str, EmbeddingStore],
    held_out: dict[str, NDArray[np.float32]],
    about: str,
) -> Evaluation:
    """Measure within the first modality."""
    name, vectors = next(iter(held_out.items()))
    shift = shift_of(head, name)
    return evaluate(
        head,
        vectors - shift,
        fit_on=training[name].sample(SAMPLE) - shift,
        about={"data": f"{name}s of {about}, their mean subtracted"},
    )
