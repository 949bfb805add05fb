"""`distill_queries`: from a model with a head and texts to a model that looks its queries up."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from csr_st._io.files import check_writable
from csr_st._io.openmp import patient_openmp
from csr_st._io.optional import OptionalStep
from csr_st.attaching import detach, modality_of
from csr_st.data.beir import RetrievalSet
from csr_st.data.inputs import as_inputs, check_input
from csr_st.distill.agreement import Agreement, agreement
from csr_st.distill.bags import bags_of, words_of
from csr_st.distill.pieces import chosen_texts
from csr_st.distill.route import query_tokenizer, with_static_queries
from csr_st.distill.table import least_squares, refined
from csr_st.embeddings import EmbeddingStore
from csr_st.encoding import encode, encode_vectors
from csr_st.head import SparseCSRHead, find_head
from csr_st.publishing.figures import update_card
from csr_st.publishing.hub import save
from csr_st.static_queries import query_prompt, static_route

SHARD = 4096  # rows that a stopped run can lose
UNIT = 1e-2  # how far norms may be from 1
NOT_MEASURED = "How near they come to the backbone's was not measured."


@dataclass(frozen=True)
class Distilled:
    """A model with static queries, and how near they come to the backbone's.

    Attributes:
        model: Looks its queries up; documents go through the backbone.
        agreement: Figures; None where measuring them failed, with a warning.
        path: Where the model was saved, if it was.
    """

    model: SentenceTransformer
    agreement: Agreement | None
    path: Path | None = None


@patient_openmp()
def distill_queries(  # public; each option is one of the command
    model: SentenceTransformer,
    texts: Iterable[str],
    output: str | Path | None = None,
    *,
    queries: Iterable[str] = (),
    judged: RetrievalSet | None = None,
    data_name: str = "",
    epochs: int = 8,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Distilled:
    """Make a model that encodes queries without its backbone, by a table of tokens' vectors.

    A query's dense vector is then the mean of the vectors of its tokens, to unit norm where the
    backbone's vectors have it, and goes through the unchanged head. The table is fitted to the
    backbone's query vectors of the texts, of pieces of them that are as short as queries, and of
    queries where there are any: by least squares, then by a short training
    (`csr_st.distill.table`). Documents are encoded as before, and indexes stay valid.

    The model that is returned shares the modules of ``model``. Save it with `csr_st.save`, or by
    ``output``; it loads with plain ``SentenceTransformer`` after ``import csr_st``. Its
    ``encode_query`` is the look-up; ``encode_document``, and ``encode`` without a role, are the
    backbone. `csr_st.Searcher` makes use of it.

    Args:
        model: A model of texts with a text-level head.
        texts: Texts like those that are searched, at least 20; of more than 20,000 a sample.
        output: Folder of the finished model. Vectors are kept in it, so that a stopped run goes on
            where it was.
        queries: Real queries, if you have some; they need no labels.
        judged: Documents and judged queries, by which the result is measured. Without them,
            figures are those of pieces of texts that were set aside, searched in the texts.
        data_name: Words for the texts, on the card.
        epochs: Passes of the training; 0 for least squares alone.
        learning_rate: At its start.
        batch_size: Texts that the backbone takes at once.
        seed: Seed of the pieces, the texts set aside and the order.
        show_progress: Whether to show bars; None shows them on a terminal.

    Returns:
        The model with its figures. It is saved before anything is measured.

    Raises:
        TypeError: If a text is not a str.
        ValueError: If there are too few texts, the model has no head, one of tokens, or static
            queries already, its tokenizer is a slow one, or a number is out of bounds.
        OSError: If ``output`` cannot be written to, which is tried first.
    """
    head = _checked(model, epochs, batch_size, learning_rate)
    tokenizer = query_tokenizer(model)
    chosen = chosen_texts(_texts(texts, "text"), _texts(queries, "query"), seed)
    tokens, words = words_of(tokenizer)
    with ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(output)
            check_writable(folder)
        vectors = EmbeddingStore.embed(
            detach(model),
            [*chosen.training, *chosen.asked, *words],
            folder / "vectors" / "queries",
            role="query",
            batch_size=batch_size,
            shard_rows=SHARD,
            show_progress=show_progress,
        ).vectors()
    ends = np.cumsum([len(chosen.training), len(chosen.asked)])
    fitted, asked_vectors, of_words = np.split(vectors, ends)
    bags, rows = bags_of(tokenizer, _prompted(model, chosen.training), _longest(model))
    targets = fitted[rows]
    unit = bool(np.abs(np.linalg.norm(targets, axis=1) - 1).max() < UNIT)
    prior = np.zeros((tokenizer.get_vocab_size(), head.input_dim), np.float32)
    prior[tokens] = of_words
    table = refined(
        least_squares(bags, targets, prior),
        bags,
        targets,
        unit=unit,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        show_progress=show_progress,
    )
    fast = with_static_queries(model, tokenizer, table, unit)
    if output is not None:
        save(fast, folder, static_queries=NOT_MEASURED)
    figures = None
    with OptionalStep("measuring the static queries", "the model is complete without figures"):
        if judged is None:
            documents, asked = chosen.documents, chosen.asked
            backbone = encode_vectors(head, asked_vectors, _query_k(head))
            data_name = f"pieces of {data_name or 'texts'} that were set aside"
        else:
            documents, asked = judged.documents, judged.queries
            backbone = encode(model, asked, _query_k(head), role="query", batch_size=batch_size)
        codes = encode(model, documents, head.k, role="document", batch_size=batch_size)
        static = encode(fast, asked, backbone.k, role="query")
        figures = agreement(data_name or "documents", codes, static, backbone, judged)
    if output is not None and figures is not None:
        update_card(folder, None, static_queries=str(figures))
    return Distilled(fast, figures, None if output is None else folder)


def _query_k(head: SparseCSRHead) -> int:
    return head.query_k or min(4 * head.k, head.hidden_dim)


def _longest(model: SentenceTransformer) -> int | None:
    """Tokens of a text that the backbone takes, None for all."""
    longest = model.max_seq_length
    return None if longest is None or math.isinf(longest) else int(longest)


def _prompted(model: SentenceTransformer, texts: Sequence[str]) -> list[str]:
    """Texts as ``encode_query`` passes them on."""
    prompt = query_prompt(model)
    return [prompt + text for text in texts]


def _texts(given: Iterable[str], what: str) -> list[str]:
    """Checked texts.

    Raises:
        TypeError: If one is not a str.
        ValueError: If one is missing.
    """
    if isinstance(given, str):
        raise TypeError(f"{what}s={given!r:.60} is one str; pass a list of them")
    found = list(as_inputs(given))
    for place, text in enumerate(found):
        check_input(text, place)
        if not isinstance(text, str):
            raise TypeError(f"{what} {place} is {text!r:.60} ({type(text).__name__}); pass str")
    return found


def _checked(
    model: SentenceTransformer, epochs: int, batch_size: int, learning_rate: float
) -> SparseCSRHead:
    """The head of a model that can be distilled."""
    head = find_head(model)
    if list(model.children())[-1] is not head:
        raise ValueError("the model does not end in its head; csr_st.attach puts it there")
    head.refuse_reconstruction(distill_queries=True)
    if "text" not in modality_of(model):
        raise ValueError(
            f"the model encodes {modality_of(model)}; static queries are made of the tokens of "
            "texts"
        )
    if isinstance(model[0], Router) and static_route(model) is not None:
        raise ValueError(
            "the model has static queries already; pass the model that they were distilled from"
        )
    for name, value, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate={learning_rate} must be above 0")
    return head
