"""Methods of the quality benchmark: dense baselines, sentence-transformers' CSRLoss, our recipes.

Every method is trained on the same vectors and returns a task's figure for each k and scoring.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from quality_sets import Task, overlap, rank
from sentence_transformers import SparseEncoder, util
from sentence_transformers.sparse_encoder.losses import (
    CSRLoss,
    SparseMultipleNegativesRankingLoss,
)
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from sklearn.decomposition import PCA

from csr_st import (
    Decoder,
    EmbeddingStore,
    SparseCodes,
    SparseCSRHead,
    encode_vectors,
    recipe,
    train,
)
from csr_st.evaluation.brute_force import rescored_top, unit_rows

KS = (2, 4, 8, 16, 32, 64)
RESCORE = 200
NEAREST = 10


@dataclass
class Row:
    """One method on one task: figures by scoring and k, and the cost of training."""

    method: str
    task: str
    metric: str
    figures: dict[str, dict[int, float]]
    steps: int
    batch: int
    seconds: float
    seed: int
    dead: dict[int, float] | None = None
    probes: dict[str, dict[int, dict[str, float]]] | None = None


def dense(task: Task) -> Row:
    started = time.perf_counter()
    figure = task.scored(unit_rows(task.documents), unit_rows(task.queries))
    return _row("dense", task, {"full": dict.fromkeys(KS, figure)}, started)


def pca(task: Task, probe: bool) -> Row:
    started = time.perf_counter()
    fitted = PCA(max(KS), svd_solver="covariance_eigh").fit(task.train)
    return _projected("PCA", task, started, lambda x, k: fitted.transform(x)[:, :k], probe)


def matryoshka(task: Task, seed: int, steps: int, batch: int, probe: bool) -> Row:
    """A linear map whose first k outputs keep the dense similarities, trained for all k together.

    Starts at PCA; KL of the batch's softmax similarities at temperature 0.05, Adam at 1e-3.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    data = torch.from_numpy(unit_rows(task.train))
    start = PCA(max(KS), svd_solver="covariance_eigh").fit(task.train)
    weight = torch.from_numpy(start.components_.T.astype(np.float32)).requires_grad_()
    bias = torch.from_numpy(start.mean_.astype(np.float32))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    for rows in _batches(len(data), batch, steps, seed):
        x = data[rows]
        teacher = (x @ x.T / 0.05).fill_diagonal_(-1e9).log_softmax(dim=1)
        projected, loss = (x - bias) @ weight, torch.zeros(())
        for k in KS:
            z = F.normalize(projected[:, :k], dim=1)
            student = (z @ z.T / 0.05).masked_fill(torch.eye(len(x), dtype=bool), -1e9)
            loss = loss + F.kl_div(
                student.log_softmax(dim=1), teacher, log_target=True, reduction="batchmean"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    final = weight.detach().numpy()
    row = _projected(
        "linear Matryoshka", task, started, lambda x, k: (x - start.mean_) @ final[:, :k], probe
    )
    row.steps, row.batch, row.seed = steps, batch, seed
    return row


def csr_loss_head(
    vectors: np.ndarray,
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
    documented: bool,
    k: int,
    hidden_dim: int | None = None,
) -> SparseCSRHead:
    """`SparseAutoEncoder` trained with `CSRLoss` on (n, d) vectors, as a head; 4 d latents."""
    torch.manual_seed(seed)
    width = vectors.shape[1]
    latents = hidden_dim or 4 * width
    encoder = SparseAutoEncoder(width, hidden_dim=latents, k=k, k_aux=512)
    model = SparseEncoder(modules=[encoder], device="cpu").train()
    if documented:
        contrast = SparseMultipleNegativesRankingLoss(
            model, scale=20.0, similarity_fct=util.cos_sim
        )
        loss = CSRLoss(model, loss=contrast, beta=0.1, gamma=0.1)
    else:
        loss = CSRLoss(model)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=learning_rate)
    data = torch.from_numpy(vectors)
    for rows in _batches(len(data), batch, steps, seed):
        x = data[rows]
        terms = loss([{"sentence_embedding": x}, {"sentence_embedding": x}], None)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    head = SparseCSRHead(width, latents, k=k, tied=True)
    with torch.no_grad():
        head.encoder_weight.copy_(encoder.encoder.weight)
        head.pre_bias.copy_(encoder.pre_bias)
        head.latent_bias.copy_(encoder.latent_bias)
    return head


def sentence_transformers_csr(
    task: Task,
    seed: int,
    steps: int,
    batch: int,
    learning_rate: float,
    documented: bool,
    k: int,
    probe: bool,
) -> Row:
    """Sentence-transformers' SparseAutoEncoder and CSRLoss, on cached vectors.

    ``documented``: contrastive loss by cosine at scale 20 with gamma 0.1, as in its training
    example; else the class defaults, dot product at scale 1 with gamma 1.
    """
    started = time.perf_counter()
    head = csr_loss_head(task.train, seed, steps, batch, learning_rate, documented, k)
    kind = "documented" if documented else "defaults"
    name = f"ST CSRLoss, {kind}, lr {learning_rate:g}"
    return _sparse_row(
        name, task, head, started, steps, batch, seed, ("symmetric", "query 4k"), probe
    )


def ours(
    task: Task,
    name: str,
    seed: int,
    steps: int | None,
    probe: bool,
    label: str,
    **overrides: object,
) -> Row:
    """One of our recipes; labels and pairs are used where the task has them."""
    started = time.perf_counter()
    store = EmbeddingStore.from_array(
        task.train, labels=task.labels, pairs=task.pairs, scores=task.scores
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small data sets are measured too
        settings = recipe(name, seed=seed, steps=steps, **overrides)
        result = train(store, settings, show_progress=False)
    config = result.config
    return _sparse_row(
        label,
        task,
        result.head,
        started,
        config.steps or 0,
        config.batch_size,
        seed,
        ("symmetric", "query 4k", "decoded", "rescored"),
        probe,
    )


def _dead(codes: SparseCodes) -> dict[int, float]:
    """Percentage of latents that no training vector activates, by k."""
    used = {k: np.unique(codes.prefix(k).to_scipy().indices) for k in KS}
    return {k: 100 * (1 - len(latents) / codes.hidden_dim) for k, latents in used.items()}


def _batches(n: int, batch: int, steps: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    batch = min(batch, n)
    done = 0
    while done < steps:
        order = torch.randperm(n, generator=generator)
        for i in range(0, n - batch + 1, batch):
            if done < steps:
                yield order[i : i + batch]
                done += 1


def _row(name: str, task: Task, figures: dict, started: float) -> Row:
    return Row(name, task.name, task.metric, figures, 0, 0, time.perf_counter() - started, 0)


def _projected(name, task, started, project, probe) -> Row:
    figures, probes = {}, {}
    for k in KS:
        documents, queries = (unit_rows(project(x, k)) for x in (task.documents, task.queries))
        figures[k] = task.scored(documents, queries)
        if probe and task.kind == "classification":
            probes[k] = task.probed(documents, queries)
    row = _row(name, task, {"symmetric": figures}, started)
    row.probes = {"symmetric": probes}
    return row


def _sparse_row(name, task, head, started, steps, batch, seed, scorings, probe) -> Row:
    seconds = time.perf_counter() - started
    widest = min(4 * max(KS), head.hidden_dim)
    documents = encode_vectors(head, task.documents, max(KS))
    queries = encode_vectors(head, task.queries, widest)
    asked = unit_rows(task.queries)
    decoder = Decoder.from_head(head)
    figures: dict[str, dict[int, float]] = {scoring: {} for scoring in scorings}
    probes: dict[str, dict[int, dict[str, float]]] = {"symmetric": {}}
    dead = _dead(encode_vectors(head, task.train, max(KS)))
    nearest = None
    if task.kind != "sts":
        nearest = rank(unit_rows(task.documents), asked, NEAREST)
    for k in KS:
        stored = documents.prefix(k)
        known = stored.to_scipy()
        same = queries.prefix(k).to_scipy()
        figures["symmetric"][k] = task.scored(known, same)
        if "query 4k" in figures:
            figures["query 4k"][k] = task.scored(
                known, queries.prefix(min(4 * k, widest)).to_scipy()
            )
        if nearest is not None:
            kept = rank(known, same, NEAREST)
            figures.setdefault("neighbours", {})[k] = 100 * overlap(kept, nearest)
        if "decoded" in figures:
            decoded = unit_rows(decoder.decode(stored))
            pairs = task.kind == "sts"  # neither side is a query
            against = unit_rows(decoder.decode(queries.prefix(k))) if pairs else asked
            figures["decoded"][k] = task.scored(decoded, against)
        if "rescored" in figures and task.kind != "sts":
            candidates = min(RESCORE, len(stored))
            asked_codes = queries.prefix(k)
            ranking = rescored_top(stored, asked_codes, decoder, task.queries, candidates, 10)
            figures["rescored"][k] = task.ranked(ranking)
        if probe and task.kind == "classification":
            probes["symmetric"][k] = task.probed(known, same)
    return Row(name, task.name, task.metric, figures, steps, batch, seconds, seed, dead, probes)
