"""Explanations of SPLADE codes: the names of latents are tokens."""

import pytest
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import csr_st
from csr_st import LatentNames
from csr_st.insight import token_names, word_shares


def test_names_are_the_tokens(splade, tmp_path):
    names = token_names(splade)
    assert names.hidden_dim == len(names) == 24
    number = splade.tokenizer.convert_tokens_to_ids("cat")
    assert names.label(number) == "cat"
    assert [name.latent for name in names.find("cat")] == [number]
    names.save(tmp_path / "latents.json")
    assert LatentNames.load(tmp_path / "latents.json").label(number) == "cat"


def test_byte_level_tokens_are_shown_as_text():
    vocabulary = {"[UNK]": 0, "Ġwing": 1, "Ã©": 2, "Ã": 3, "Ġ": 4}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    model = SparseEncoder(modules=[SparseStaticEmbedding(fast)], device="cpu")
    names = token_names(model)
    assert [names.label(number) for number in range(5)] == ["[UNK]", "wing", "é", "Ã", "Ġ"]


def test_an_explanation_has_tokens_and_the_words_that_carry_them(splade):
    query, document = "red cat", "the cat sat on the mat"
    codes = [
        csr_st.encode(splade, [text], role=role)
        for text, role in ((query, "query"), (document, "document"))
    ]
    found = csr_st.explain(
        *codes, token_names(splade), model=splade, query_text=query, document_text=document
    )
    one, two = (part.normalize().to_dense()[0] for part in codes)
    assert found.score == pytest.approx(float(one @ two), abs=1e-6)
    tokens = splade.tokenizer.convert_ids_to_tokens([share.latent for share in found.latents])
    assert [share.label for share in found.latents] == tokens
    words = {word for shares in found.document_words.values() for word in shares}
    assert words
    assert words <= set(document.split())


def test_words_that_carry_a_token(splade):
    text = "blue fish swam"
    latent = int(csr_st.encode(splade, [text]).indices[0, 0])
    (shares,) = word_shares(splade, text, [latent]).values()
    values = csr_st.encode(splade, [text, "fish swam"]).to_dense()[:, latent]
    assert shares.get("blue", 0) == pytest.approx(max(0, 1 - values[1] / values[0]), abs=1e-5)


def test_a_model_without_tokens_is_refused(model, saved):
    for one in (model, SparseEncoder(saved, device="cpu")):
        with pytest.raises(
            ValueError, match="has no SpladePooling and no SparseStaticEmbedding: it"
        ):
            token_names(one)
