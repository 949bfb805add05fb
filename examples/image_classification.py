"""Classify images by their nearest neighbour with 8 to 64 active latents.

Shows how to train on vectors of any origin. The head needs only the vectors, and the saved model
encodes vectors (`model.encode(vectors, k=8)`). Each test image gets the label of the nearest
training image. The baselines are PCA to k dimensions and the full vectors.

    apt-get install dataset-fashion-mnist
    pip install "csr-st[search,plots]"
    python examples/image_classification.py --output fashion-csr

It prints a table of accuracies at k = 8, 16, 32 and 64. For raw pixels at k=8: 81% by codes, 83%
rescored through the decoder, 76% by PCA; all 784 dimensions have 86%. That takes about four minutes
on one CPU core; ``--steps 100`` is faster, and ``--tiny`` runs on generated pictures in seconds.

``--features train.npy test.npy`` uses the features of a network, one row per image, instead of the
pixels; `tests/benchmarks/images.py --features network` writes such files with an ImageNet network
from PyPI. Instead of Debian's folder you can name a data set with the columns image and label: a
folder that `datasets` saved, or a Hub id. The Hub's copy, ``zalando-datasets/fashion_mnist``, was
not tried.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA

import csr_st
from csr_st import data
from csr_st.evaluation.brute_force import cosine_top, unit_rows
from csr_st.evaluation.metrics import knn_accuracy

DEBIAN = "/usr/share/datasets/fashion-mnist"
KS = (8, 16, 32, 64)
Split = tuple[NDArray[np.float32], NDArray[np.int64]]  # (n, pixels) brightness 0..1, (n,) classes


def made_up(n: int, seed: int) -> Split:
    """Noisy 12 x 12 pictures with a horizontal bar, a vertical bar, or both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.random((n, 12, 12)) / 4
    for image, label, (row, column) in zip(images, labels, rng.integers(2, 9, (n, 2)), strict=True):
        if label != 1:
            image[row : row + 2] += 0.7
        if label != 0:
            image[:, column : column + 2] += 0.7
    return images.reshape(n, -1).astype(np.float32), labels


def read(source: str, split: str) -> Split:
    """One split, "train" or "test", of Debian's folder or of a data set of `datasets`."""
    prefix = {"train": "train", "test": "t10k"}[split]

    def array(name: str, header: int) -> NDArray[np.uint8]:
        content = (Path(source) / f"{prefix}-{name}-ubyte.gz").read_bytes()
        return np.frombuffer(gzip.decompress(content), np.uint8, offset=header)

    if (Path(source) / f"{prefix}-labels-idx1-ubyte.gz").exists():
        labels = array("labels-idx1", 8)
        images = array("images-idx3", 16).reshape(len(labels), -1)
    else:
        rows = data.load(source, split)
        images = np.stack([np.asarray(image.convert("L")).ravel() for image in rows["image"]])
        labels = np.array(rows["label"])
    return (images / 255).astype(np.float32), labels.astype(np.int64)


def accuracies(
    model: SentenceTransformer, known: Split, asked: Split
) -> dict[str, dict[int, float]]:
    """1-NN accuracy in percent by method and k."""
    head = csr_st.find_head(model)
    widest = min(4 * max(KS), head.hidden_dim)
    documents = csr_st.encode(model, known[0], k=max(KS))
    queries = csr_st.encode(model, asked[0], k=widest)
    index = csr_st.SparseIndex.build(documents, decoder=csr_st.Decoder.from_head(head))
    pca = PCA(min(max(KS), known[0].shape[1]), svd_solver="covariance_eigh").fit(known[0])
    found: dict[str, dict[int, float]] = {"codes": {}, "codes, rescored": {}, "PCA": {}}

    def accuracy(nearest: NDArray[Any]) -> float:
        return 100 * knn_accuracy(nearest, known[1], asked[1])

    for k in KS:
        found["codes"][k] = accuracy(index.search(queries.prefix(k), top_k=1, k=k).ids)
        # The query's dense vector against the 200 best documents, decoded from k latents.
        rescored = index.search(
            queries.prefix(min(4 * k, widest)),
            top_k=1,
            k=k,
            rescore=min(200, len(index)),
            queries_dense=asked[0],
        )
        found["codes, rescored"][k] = accuracy(rescored.ids)
        rows, questions = (pca.transform(split[0])[:, :k] for split in (known, asked))
        found["PCA"][k] = accuracy(cosine_top(rows, questions, 1))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="folder or Hub id of the images")
    parser.add_argument("--features", nargs=2, type=Path, help="vectors of both splits, as .npy")
    parser.add_argument("--output", type=Path, default=Path("fashion-csr"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.tiny and options.source is None:
        splits = [made_up(300, 0), made_up(60, 1)]
    else:
        splits = [read(options.source or DEBIAN, split) for split in ("train", "test")]
    if options.features:
        files = (np.load(path, allow_pickle=False) for path in options.features)
        splits = [(vectors, labels) for vectors, (_, labels) in zip(files, splits, strict=True)]
    # At unit norm, as for cosine: the head need not encode lengths.
    known, asked = ((unit_rows(vectors), labels) for vectors, labels in splits)

    # The same as `csr-st train vectors.npy`: train on the vectors, save the model with a card.
    settings = csr_st.recipe(
        hidden_dim=96 if options.tiny else 2048, steps=40 if options.tiny else options.steps
    )
    store = csr_st.EmbeddingStore.from_array(known[0])
    csr_st.train_vectors(store, options.output, settings, data_name="images as vectors")

    # The folder is complete: any other program can load it.
    model = SentenceTransformer(str(options.output))
    dense = knn_accuracy(cosine_top(known[0], asked[0], 1), known[1], asked[1])
    print(f"1-NN accuracy in percent; all {known[0].shape[1]} dimensions: {100 * dense:.1f}\n")
    print("| | " + " | ".join(f"k={k}" for k in KS) + " |")
    print("| --- |" + " ---: |" * len(KS))
    for method, row in accuracies(model, known, asked).items():
        print(f"| {method} | " + " | ".join(f"{row[k]:.1f}" for k in KS) + " |")
    vector = model.encode(asked[0][0], k=8)
    print(f"\nOne image: {np.count_nonzero(vector)} of {len(vector)} numbers are not zero")


if __name__ == "__main__":
    main()
