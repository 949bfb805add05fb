"""Runs that encode a corpus in processes of their own, for tests that kill or count them.

``python encoding_runs.py kill DIRECTORY KILLS SEED``: encodes again and again, killed with SIGKILL
at random moments, lets the last run end, and prints how many were killed.

``torchrun ... encoding_runs.py once DIRECTORY``: encodes once.
"""

import sys
import time

import torch
from conftest import WORDS
from killing import kill_at_random
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import csr_st

TEXTS = [f"{WORDS[i % 19]} {WORDS[i % 17]} {WORDS[i % 13]}" for i in range(400)]


class SlowEmbedding(StaticEmbedding):
    def forward(self, features, **options):
        time.sleep(0.002)
        return super().forward(features, **options)


def tiny_model():
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    backbone = SentenceTransformer(
        modules=[SlowEmbedding(tokenizer, embedding_dim=16)],
        device="cpu",
        prompts={"query": "the red ", "document": ""},
    )
    return csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=8))


def encode(path, model=None):
    """40 shards."""
    model = model or tiny_model()
    return csr_st.CodeStore.encode(
        model, TEXTS, path, k=6, role="query", shard_rows=10, show_progress=False
    )


def kill(path, kills, seed):
    model = tiny_model()
    killed, _ = kill_at_random(
        lambda: encode(path, model), lambda: encode(path + ".whole", model), kills, seed
    )
    print(killed)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        encode(sys.argv[2])
