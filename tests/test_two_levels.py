"""Codes of tokens and of texts in one: scores, one forward pass, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseCodes, SparseCSRHead, SparseIndex

TEXTS = ["the cat sat on the mat", "a dog ran under the tree", "birds", "the fish swam", ""]


def random_codes(rng, n, k, hidden_dim):
    indices = np.stack([rng.permutation(hidden_dim)[:k] for _ in range(n)])
    return SparseCodes(indices, rng.random((n, k), np.float32), hidden_dim)


def cosines(codes):
    dense = codes.to_dense()
    return dense @ dense.T


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 1])
def test_scores_are_the_sum_of_both_cosines_by_their_shares(share):
    rng = np.random.default_rng(0)
    first, second = random_codes(rng, 6, 3, 20), random_codes(rng, 6, 5, 11)
    joined = csr_st.join_codes(first, second, share)
    assert joined.shape == (6, 31)
    assert joined.k == 8
    wanted = share * cosines(first.normalize()) + (1 - share) * cosines(second.normalize())
    np.testing.assert_allclose(cosines(joined), wanted, atol=1e-6)


def test_an_index_ranks_joined_codes_by_that_sum():
    pytest.importorskip("numba")
    rng = np.random.default_rng(1)
    first, second = random_codes(rng, 40, 4, 30), random_codes(rng, 40, 4, 30)
    joined = csr_st.join_codes(first, second, 0.4)
    wanted = 0.4 * cosines(first.normalize()) + 0.6 * cosines(second.normalize())
    found = SparseIndex.build(joined).search(joined, top_k=5)
    np.testing.assert_allclose(found.scores, -np.sort(-wanted, axis=1)[:, :5], atol=1e-5)


def test_an_empty_part_leaves_the_other_alone():
    empty = SparseCodes(np.array([[0]]), np.array([[0.0]], np.float32), 3)
    other = SparseCodes(np.array([[2, 1]]), np.array([[3.0, 4.0]], np.float32), 3)
    joined = csr_st.join_codes(empty, other)
    np.testing.assert_allclose(joined.to_dense(), [[0, 0, 0, 0, 0.8, 0.6]], rtol=1e-6)


def test_what_cannot_be_joined_is_refused():
    rng = np.random.default_rng(0)
    first, second = random_codes(rng, 3, 2, 9), random_codes(rng, 4, 2, 9)
    with pytest.raises(ValueError, match="3 codes cannot be joined with 4"):
        csr_st.join_codes(first, second)
    with pytest.raises(ValueError, match=r"share=1\.5 must be within 0\.\.1"):
        csr_st.join_codes(first, first, 1.5)
    with pytest.raises(TypeError, match="share='half' must be a number"):
        csr_st.join_codes(first, first, "half")


@pytest.fixture
def models(transformer_folder):
    """Models with a token-level and a text-level head, random but for their backbone."""
    backbone = SentenceTransformer(transformer_folder, device="cpu")
    width = backbone.get_embedding_dimension()
    skipped = sorted(backbone.tokenizer.all_special_ids)
    tokens = SparseCSRHead(
        width, 64, k=8, query_k=4, level="token", k_token=3, skipped_tokens=skipped
    )
    return csr_st.attach(backbone, tokens), csr_st.attach(backbone, SparseCSRHead(width, 48, k=6))


@pytest.mark.parametrize(("role", "ks"), [(None, (8, 6)), ("document", (8, 6)), ("query", (4, 24))])
def test_one_forward_pass_gives_what_two_give(models, role, ks):
    of_tokens, of_texts = models
    passes = []
    hook = of_tokens[0].register_forward_hook(lambda *_: passes.append(1))
    found = csr_st.encode_two_levels(of_tokens, of_texts[-1], TEXTS, role=role, batch_size=8)
    hook.remove()
    assert len(passes) == 1
    parts = (
        csr_st.encode(model, TEXTS, k=k, role=role) for model, k in zip(models, ks, strict=True)
    )
    wanted = csr_st.join_codes(*parts)
    assert found.k == sum(ks)
    np.testing.assert_allclose(found.to_dense(), wanted.to_dense(), atol=1e-6)


def test_no_inputs_give_no_codes(models):
    assert csr_st.encode_two_levels(models[0], models[1][-1], []).shape == (0, 112)


def test_heads_of_one_level_are_refused(models):
    of_tokens, of_texts = models
    with pytest.raises(ValueError, match="they must be 'token' and 'text'"):
        csr_st.encode_two_levels(of_texts, of_texts[-1], TEXTS)
    with pytest.raises(ValueError, match="they must be 'token' and 'text'"):
        csr_st.encode_two_levels(of_tokens, of_tokens[-1], TEXTS)
    with pytest.raises(ValueError, match="vectors of width 16 given to a head with input_dim=7"):
        csr_st.encode_two_levels(of_tokens, SparseCSRHead(7, 9, k=2), TEXTS)
