"""Token-level heads beside dense vectors, words and text-level heads: quality and cost.

    python tests/benchmarks/token_level.py --model PATH --data DIR --output DIR [--sets scifact,...]
        [--seeds 3] [--max-seq-length 128] [--general TEXTS.tsv.gz [--texts 40000]]
        [--set hidden_dim=8192 ...]
    python tests/benchmarks/token_level.py --model PATH --data DIR --output DIR --parts cost

``DIR`` of data is as for quality.py. Tokens, vectors and heads in the output folder are used where
they are there, else made. Figures are in percent, means over the seeds, of documents at k and
queries at k: nDCG@10 (scifact, cranfield), 5-NN accuracy (clinc150, trec6), Spearman (stsb).
"own" heads were trained on the documents of the set; the "general" one on ``TEXTS`` (KIND TAB TEXT
lines), none of which are in the sets; "reweighed": with the weights that its latents have in the
set's documents (`csr_st.reweigh`, no labels). "and words": with BM25 in one index, at a
weight of 0.08 (0.1 for both levels), whose cosines are lower than those of text-level codes. "both
levels": joined with text-level codes, 32 latents a document and 128 a query (`join_codes`).
"min-max": 0.6 of dense and 0.4 of the other, both scaled to 0..1 for a query.

Cost: time of encoding 512 documents at batch 64 with the backbone alone and with the head, in
alternation, and the memory that the head adds, at 2 threads.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from heads import head_for
from hybrid import by_words, scaled
from quality_sets import SETS, Task, _classification, _retrieval, _sts
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseCodes, TokenStore, recipe, reweigh, train_tokens
from csr_st.codes import index_dtype
from csr_st.evaluation.words import Texts
from csr_st.head import SparseCSRHead

SIZES = ((None, None), (256, 64), (128, 64), (64, 32), (32, 32))
KINDS = {"scifact": _retrieval, "cranfield": _retrieval, "stsb": lambda _, *rest: _sts(*rest)}


class Embedded:
    """One data set with the tokens and texts of its parts.

    Args:
        name: Of the set.
        data: Folder of the sets.
        model: The backbone.
        output: Where stores are kept.
    """

    def __init__(self, name: str, data: Path, model: SentenceTransformer, output: Path) -> None:
        self.name = name
        self.texts: dict[str, list[str]] = {}
        self._model, self._output = model, output

        def vectors(part: str, texts: list[str]) -> np.ndarray:
            self.texts[part] = texts
            return self.store(part, texts).dense.vectors()

        self.task: Task = KINDS.get(name, _classification)(name, data / name, vectors)

    def store(self, part: str, texts: list[str]) -> TokenStore:
        path = self._output / "tokens" / f"{self.name}-{part}"
        texts = [text or " " for text in texts]
        return TokenStore.embed(self._model, texts, path, tokens_per_text=None)

    def parts(self) -> tuple[str, str]:
        """Names of the parts that are searched and that search."""
        return {"retrieval": ("corpus", "queries"), "classification": ("train", "test")}.get(
            self.task.kind, ("test-2", "test-1")
        )

    def training(self) -> TokenStore:
        """The tokens to train on: of documents, or of both sides of training pairs."""
        if self.task.kind == "sts":
            return self.store("train", self.texts["train-1"] + self.texts["train-2"])
        return self.store(self.parts()[0], self.texts[self.parts()[0]])

    def searched(self) -> tuple[TokenStore, TokenStore]:
        documents, queries = (self.store(part, self.texts[part]) for part in self.parts())
        return documents, queries


@torch.inference_mode()
def codes_of(head: SparseCSRHead, store: TokenStore, k: int) -> SparseCodes:
    parts = []
    for part in store.batches():
        values, latents = head.encode_tokens(part.on(head.pre_bias.device), k)
        indices = latents.numpy().astype(index_dtype(head.hidden_dim))
        parts.append(SparseCodes(indices, values.numpy(), head.hidden_dim).normalize())
    return SparseCodes.concatenate(parts)


def token_head(
    store: Callable[[], TokenStore], seed: int, path: Path, settings: dict
) -> SparseCSRHead:
    """A head of tokens, trained once and kept."""
    if not path.exists():
        found = train_tokens(store(), recipe("token", seed=seed, **settings), show_progress=False)
        path.mkdir(parents=True)
        found.head.save(str(path))
        print(f"  {path.name}: {found.seconds:.0f} s, {found.history[-1]['fvu']}", flush=True)
    return SparseCSRHead.load(str(path))


def size(documents: int | None, queries: int | None) -> str:
    return f"{documents or 'all'}/{queries or 'all'}"


def show(name: str, figures: Sequence[float]) -> None:
    print(f"  {name:44}" + "".join(f"{figure:9.1f}" for figure in figures), flush=True)


def peers(embedded: Embedded, output: Path, seeds: int) -> np.ndarray | None:
    """Print what needs no head of tokens; also the dense scores of a retrieval set."""
    task = embedded.task
    documents, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (
        task.documents, task.queries))  # fmt: skip
    print(f"\n{task.name}: {len(documents):,} documents, {len(queries):,} queries, {task.metric}")
    show("dense", [task.scored(documents, queries)])
    for k in (32, 128):
        found = []
        for seed in range(seeds):
            head = head_for(task.unlabelled(), seed, output / "heads")
            wide = min(4 * k, head.hidden_dim) if task.kind != "sts" else k
            pair = (csr_st.encode_vectors(head, task.documents, k),
                    csr_st.encode_vectors(head, task.queries, wide))  # fmt: skip
            found.append(task.scored(*(codes.to_scipy() for codes in pair)))
        show(f"text-level head, {k}/{wide}", [float(np.mean(found))])
    if task.kind == "sts":
        return None
    dense = queries @ documents.T
    words = by_words(*(embedded.texts[part] for part in embedded.parts()))
    show("words (bm25s)", [ranked(task, words)])
    show("dense and words, min-max", [ranked(task, 0.6 * scaled(dense) + 0.4 * scaled(words))])
    return dense


def ranked(task: Task, scores: np.ndarray) -> float:
    return task.ranked(np.argsort(-scores, axis=1, kind="stable")[:, :10])


def quality(
    embedded: Embedded,
    label: str,
    heads: list[SparseCSRHead],
    dense: np.ndarray | None,
    folder: Path,
) -> None:
    """Print what heads of tokens give."""
    task, found = embedded.task, defaultdict(lambda: defaultdict(list))
    stores, words = embedded.searched(), None
    if task.kind != "sts":
        documents, queries = (embedded.texts[part] for part in embedded.parts())
        words = Texts(documents, queries).scores(len(documents), len(queries))
    for seed, head in enumerate(heads):
        text_head = head_for(task.unlabelled(), seed, folder)
        of_texts = (csr_st.encode_vectors(text_head, task.documents, 32),
                    csr_st.encode_vectors(text_head, task.queries, 128))  # fmt: skip
        whole = [codes_of(head, store, head.hidden_dim) for store in stores]
        active = [float((codes.values > 0).sum(axis=1).mean()) for codes in whole]
        for ks in SIZES:
            pair = [codes.prefix(k or codes.k) for codes, k in zip(whole, ks, strict=True)]
            matrices = [codes.to_scipy() for codes in pair]
            found["codes"][ks].append(task.scored(*matrices))
            if words is None or dense is None:
                continue
            ranking = words._replace(weight=0.08).top_with_codes(*pair, 10)
            found["codes and words"][ks].append(task.ranked(ranking))
            both_levels = [csr_st.join_codes(*two) for two in zip(pair, of_texts, strict=True)]
            joined = [codes.to_scipy() for codes in both_levels]
            found["both levels"][ks].append(task.scored(*joined))
            ranking = words._replace(weight=0.1).top_with_codes(*both_levels, 10)
            found["both levels and words"][ks].append(task.ranked(ranking))
            scores = np.asarray((matrices[1] @ matrices[0].T).todense())
            both = 0.6 * scaled(dense) + 0.4 * scaled(scores)
            found["codes and dense, min-max"][ks].append(ranked(task, both))
    print(f"  {label:44}" + "".join(f"{size(*ks):>9}" for ks in SIZES)
          + f"   (all: {active[0]:.0f}, {active[1]:.0f} active)")  # fmt: skip
    for name, figures in found.items():
        show(name, [float(np.mean(figures[ks])) for ks in SIZES])


def cost(model: SentenceTransformer, texts: list[str], head: SparseCSRHead) -> None:
    """Print the time and memory that the head adds to the backbone."""
    torch.set_num_threads(2)
    sparse = csr_st.attach(model, head)
    texts = texts[:512]
    model.encode(texts, batch_size=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    csr_st.encode(sparse, texts, batch_size=64, show_progress=False)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ratios = []
    for _ in range(7):
        started = time.perf_counter()
        model.encode(texts, batch_size=64)
        between = time.perf_counter()
        csr_st.encode(sparse, texts, batch_size=64, show_progress=False)
        ratios.append((time.perf_counter() - between) / (between - started))
    print(
        f"encoding with head / without: median {np.median(ratios):.2f}, least {min(ratios):.2f}; "
        f"memory added: {added / 1024:.0f} MB (h={head.hidden_dim}, k_token={head.k_token})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-seq-length", type=int, default=128)
    parser.add_argument("--general", type=Path)
    parser.add_argument("--texts", type=int, default=40_000)
    parser.add_argument("--set", action="append", default=[], help="a setting of the recipe")
    parser.add_argument("--parts", default="quality")
    args = parser.parse_args()
    settings = {}
    for name, value in (given.split("=") for given in args.set):
        settings[name] = float(value) if "." in value or "e" in value else int(value)
    tag = "".join(f"-{name}-{value}" for name, value in settings.items())
    model = SentenceTransformer(args.model, device="cpu")
    model.max_seq_length = args.max_seq_length
    general = None
    if args.general is not None:
        with gzip.open(args.general, "rt", encoding="utf-8") as lines:
            texts = [line.rstrip("\n").split("\t", 1)[1] for line, _ in zip(
                lines, range(args.texts), strict=False)]  # fmt: skip
        folder = args.output / "tokens" / f"general-{args.texts}"
        path = args.output / "token-heads" / f"general-{args.texts}{tag}"
        general = token_head(lambda: TokenStore.embed(model, texts, folder), 0, path, settings)
    for name in args.sets.split(","):
        embedded = Embedded(name, args.data, model, args.output)
        if args.parts == "cost":
            path = args.output / "token-heads" / f"{name}-0{tag}"
            head = token_head(embedded.training, 0, path, settings)
            cost(model, embedded.texts[embedded.parts()[0]], head)
            continue
        dense = peers(embedded, args.output, args.seeds)
        if general is not None:
            adjusted = reweigh(general, embedded.searched()[0])
            for label, head in (("", general), (", reweighed", adjusted)):
                label = f"general token-level head{label}"
                quality(embedded, label, [head], dense, args.output / "heads")
            continue
        paths = (args.output / "token-heads" / f"{name}-{seed}{tag}" for seed in range(args.seeds))
        heads = [token_head(embedded.training, seed, path, settings)
                 for seed, path in enumerate(paths)]  # fmt: skip
        quality(embedded, "own token-level head", heads, dense, args.output / "heads")


if __name__ == "__main__":
    main()
