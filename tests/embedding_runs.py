"""Embedding runs in processes of their own, for tests that kill or count them.

``python embedding_runs.py kill DIRECTORY KILLS SEED``: starts an embedding run again and again,
kills it with SIGKILL at random moments, lets the last one end, and prints how many were killed.

``accelerate launch ... embedding_runs.py once DIRECTORY [FAILING_RANK]``: embeds once.
"""

import os
import sys
import time

import datasets
from embedding_stub import StubModel
from killing import kill_at_random

from csr_st.embeddings import EmbeddingStore

TEXTS = [f"text {i}" for i in range(400)]


class SlowModel(StubModel):
    def encode(self, items, **options):
        time.sleep(0.002)
        return super().encode(items, **options)


def embed(path, model=None):
    """40 shards with string labels, from a stream of pairs' texts."""
    labels = [f"class {i % 7}" for i in range(len(TEXTS))]
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": labels})
    return EmbeddingStore.embed(
        model or SlowModel(),
        data.to_iterable_dataset() if path.endswith("stream") else data,
        path,
        text_column="text",
        label_column="label",
        shard_rows=10,
    )


def kill(path, kills, seed):
    killed, _ = kill_at_random(
        lambda: embed(path), lambda: embed(path + ".whole" + path[-6:]), kills, seed
    )
    print(killed)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        failing = sys.argv[3:] == [os.environ["RANK"]]
        embed(sys.argv[2], SlowModel(break_at=2 if failing else None))
