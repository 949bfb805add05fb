"""Memory that encoding adds: 200,000 texts at hidden_dim 16,384 and k = 16.

The dense array of these codes would take n * hidden_dim * 4 bytes. The backbone is a stub that
returns random vectors, so this measures the path from vectors to codes.

    python tests/benchmarks/memory.py [--texts 200000] [--hidden-dim 16384] [--k 16] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

import csr_st

DIM = 384


class Stub(InputModule):
    """Returns a random vector for each text, by its hash, in almost no time."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(4096, DIM), requires_grad=False)

    def preprocess(self, inputs, prompt=None, **kwargs):
        return {"row": torch.tensor([hash(text) % 4096 for text in inputs])}

    def forward(self, features, **kwargs):
        return {**features, "sentence_embedding": self.table[features["row"]]}

    @property
    def tokenizer(self):
        return None

    def get_embedding_dimension(self):
        return DIM

    def save(self, *args, **kwargs):
        raise NotImplementedError

    @classmethod
    def load(cls, *args, **kwargs):
        raise NotImplementedError


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--hidden-dim", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    head = csr_st.SparseCSRHead(DIM, args.hidden_dim)
    model = csr_st.attach(SentenceTransformer(modules=[Stub()], device="cpu"), head)
    texts = [f"text number {i}" for i in range(args.texts)]
    csr_st.encode(model, texts[:256], k=args.k)  # the first call loads modules
    before = peak_megabytes()
    started = time.perf_counter()
    codes = csr_st.encode(model, texts, k=args.k, show_progress=True)
    seconds = time.perf_counter() - started
    added = peak_megabytes() - before
    dense = args.texts * args.hidden_dim * 4 / 1e6
    result = {
        "texts": args.texts,
        "hidden_dim": args.hidden_dim,
        "k": args.k,
        "added_megabytes": round(added),
        "codes_megabytes": round(codes.nbytes / 1e6),
        "dense_megabytes": round(dense),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
