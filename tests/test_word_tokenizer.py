"""Tokens by a memory of words are those of the tokenizer."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from csr_st import word_tokenizer
from csr_st.word_tokenizer import WordTokenizer

PIECES = [*string.printable.strip(), *(f"##{c}" for c in string.ascii_lowercase), "the", "##ing"]


def bert(**options) -> Tokenizer:
    vocabulary = {piece: i for i, piece in enumerate(["[UNK]", "[MASK]", "\u00e9", *PIECES])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    return tokenizer


BERT = bert()
WORDS = WordTokenizer(BERT)


CHUNKS = ["the", "[MASK]", "going!", " ", "\x1c", "\t", "caf\u00e9", "a-b"]


@given(
    st.one_of(
        st.text(string.printable, max_size=40),
        st.text(max_size=20),
        st.lists(st.sampled_from(CHUNKS)).map(" ".join),
    )
)
def test_ids_are_those_of_the_tokenizer(text):
    assert WORDS.ids(text).tolist() == BERT.encode(text, add_special_tokens=False).ids


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(word_tokenizer, "MOST_WORDS", 2)
    few = WordTokenizer(BERT)
    for text in ("the cat ran", "a dog sat", "the cat ran"):
        assert few.ids(text).tolist() == BERT.encode(text, add_special_tokens=False).ids
        assert len(few._known) <= 2 + 3


@pytest.mark.parametrize("kind", ["byte level", "truncation", "added with a space"])
def test_tokenizers_whose_words_depend_on_each_other_are_asked_themselves(kind):
    tokenizer = bert()
    if kind == "byte level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    elif kind == "truncation":
        tokenizer.enable_truncation(2)
    else:
        tokenizer.add_tokens(["the cat"])
    text = "the cat ran"
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert WordTokenizer(tokenizer).ids(text).tolist() == expected
