"""Fixtures that several files share: tiny, seeded, offline."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # before its import, at which it reads this

import numpy as np
import pytest
import torch
from hypothesis import settings
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import csr_st
from csr_st import cli

torch.set_num_threads(1)  # tiny tensors: threads take longer to start than they save

# No deadline: a property must not fail because the machine is busy.
settings.register_profile("csr_st", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("csr_st")

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "fish",
    "sat",
    "ran",
    "flew",
    "swam",
    "on",
    "in",
    "under",
    "mat",
    "house",
    "tree",
    "sea",
    "red",
    "blue",
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def backbone() -> SentenceTransformer:
    """A real SentenceTransformer of 16 dimensions, with a query prompt; needs no download."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    module = StaticEmbedding(tokenizer, embedding_dim=16)
    return SentenceTransformer(
        modules=[module], device="cpu", prompts={"query": "the red ", "document": ""}
    )


@pytest.fixture
def head() -> csr_st.SparseCSRHead:
    """An untrained head for `backbone`: 16 dimensions, 64 latents."""
    torch.manual_seed(1)
    return csr_st.SparseCSRHead(16, k=8)


@pytest.fixture
def model(backbone, head) -> SentenceTransformer:
    """`backbone` with `head` at its end."""
    return csr_st.attach(backbone, head)


@pytest.fixture
def texts() -> list[str]:
    return ["the cat sat on the mat", "a dog ran in the house", "blue fish", "bird flew", "sea"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command line in an empty folder: returns a command's exit code, stdout and stderr."""
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["csr-st", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def saved(model, tmp_path) -> str:
    """`model`, saved to a folder as a user would publish it."""
    folder = tmp_path / "saved"
    model.save(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture(scope="session")
def masked_lm_folder(tmp_path_factory) -> str:
    """A one-layer BERT with a language model's head and random weights, for SPLADE."""
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    torch.manual_seed(3)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = str(tmp_path_factory.mktemp("masked_lm"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=12, **names
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 12}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **sizes, **layers)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def splade(masked_lm_folder) -> SparseEncoder:
    """A SPLADE model of 24 tokens with a query prompt, as `SparseEncoder` makes it of a BERT."""
    return SparseEncoder(masked_lm_folder, device="cpu", prompts={"query": "the red "})


@pytest.fixture(scope="session")
def transformer_folder(tmp_path_factory) -> str:
    """A one-layer BERT of 16 dimensions with random weights, as a folder of transformers files."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(2)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = str(tmp_path_factory.mktemp("transformer"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=12
    ).save_pretrained(folder)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=12,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory) -> str:
    """A folder of transformers files whose tokenizer puts special tokens around each text."""
    from token_models import save_transformer

    return save_transformer(str(tmp_path_factory.mktemp("token_transformer")))


@pytest.fixture
def token_backbone(token_folder) -> SentenceTransformer:
    """A transformer of 16 dimensions with mean pooling and a query prompt."""
    from token_models import transformer_of

    return transformer_of(token_folder)


@pytest.fixture
def token_model(token_backbone) -> SentenceTransformer:
    """`token_backbone` with a token-level head of random weights: 64 latents, 4 a token."""
    from token_models import token_head

    return csr_st.attach(token_backbone, token_head())
