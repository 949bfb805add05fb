"""Token-level heads: latents of tokens, pooled to the code of a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from token_models import MANY, code_by_hand, pooled_by_hand, token_head, token_vectors

import csr_st
from csr_st.model import token_pooling
from csr_st.model.coding import Code
from csr_st.model.token_pooling import Tokens, pooled, rarity, tokens_of

NONE = torch.tensor([], dtype=torch.int64)


def test_values_by_hand():
    """Two latents are the two coordinates; latent 2 never fires."""
    head = csr_st.SparseCSRHead(2, 3, k=2, level="token", k_token=2, saturation=0.5)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, -1]]))
        head.latent_weights.copy_(torch.tensor([2.0, 1, 1]))
    # Unit vectors (0.6, 0.8), (1, 0) and, in a text of its own, (0, 1)
    vectors = torch.tensor([[3.0, 4, 0, 0], [2, 0, 0, 0]])[:, :2]
    tokens = tokens_of({"token_embeddings": torch.stack([vectors, torch.eye(2).flip(0)])}, NONE)
    sums = head.pooled(tokens)
    torch.testing.assert_close(sums, torch.tensor([[1.6, 0.8, 0], [1.0, 1.0, 0]]))
    code = head.encode_tokens(tokens)
    expected = torch.tensor([[2 * 1.6 / 2.1, 0.8 / 1.3], [2 / 1.5, 1 / 1.5]])
    torch.testing.assert_close(code.values, expected)
    assert code.indices.tolist() == [[0, 1], [0, 1]]

    head.pooling = "max"
    torch.testing.assert_close(head.pooled(tokens), torch.tensor([[1.0, 0.8, 0], [1.0, 1.0, 0]]))


def test_the_mean_of_the_tokens_counts_as_a_share_of_them_by_hand():
    """Two tokens along the axes: their mean at unit norm has 0.707 on both, and counts half."""
    head = csr_st.SparseCSRHead(2, 2, k=2, level="token", k_token=1, text_share=0.25)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.eye(2))
    tokens = Tokens(torch.eye(2), torch.zeros(2, dtype=torch.int64), 2)  # the second has none
    expected = torch.tensor([[1 + 0.5**1.5, 1 + 0.5**1.5], [0, 0]])
    torch.testing.assert_close(head.pooled(tokens), expected)
    head.text_share = 0.0
    torch.testing.assert_close(head.pooled(tokens), torch.tensor([[1.0, 1], [0, 0]]))


def test_the_mean_of_the_tokens_has_a_gradient():
    """One token of two gets the slope that a small step along it gives."""
    head = csr_st.SparseCSRHead(2, 2, k=2, level="token", k_token=2, text_share=1.0)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.eye(2))
    texts = torch.zeros(2, dtype=torch.int64)

    def first_sum(x):
        vectors = torch.stack([torch.stack([x, torch.tensor(0.5)]), torch.tensor([0.25, 0.5])])
        return head.pooled(Tokens(vectors, texts, 1))[0, 0]

    x = torch.tensor(0.75, requires_grad=True)
    first_sum(x).backward()
    # d/dx of x + 0.25 + 2 s / |(s, 1)| with s = x + 0.25 is 1 + 2 / (s² + 1)^1.5, at s = 1
    assert float(x.grad) == pytest.approx(1 + 2 / 2**1.5, rel=1e-5)


@pytest.mark.parametrize(
    ("pooling", "text_share"), [("sum", 0.0), ("sum", 0.0625), ("sum", 1.0), ("max", 0.0)]
)
@pytest.mark.parametrize("k_token", [1, 4, 64])
def test_codes_are_those_of_a_plain_reference(token_backbone, texts, pooling, text_share, k_token):
    head = token_head(pooling=pooling, k_token=k_token, saturation=0.7, text_share=text_share)
    model = csr_st.attach(token_backbone, head)
    for k in (1, 8, 64):
        rows = model.encode(texts, k=k)
        assert rows.shape == (5, 64)
        assert (np.count_nonzero(rows, axis=1) <= k).all()
        for row, text in zip(rows, texts, strict=True):
            expected = code_by_hand(head, token_vectors(model, text), k)
            np.testing.assert_allclose(row, expected, atol=2e-6)
        np.testing.assert_array_equal(csr_st.encode(model, texts, k=k).to_dense(), rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_code_does_not_depend_on_the_texts_beside_it(token_model, batch_size):
    alone = np.concatenate([token_model.encode([text], k=16) for text in MANY[:20]])
    mixed = ["the cat sat on the mat in the red house", *MANY, ""]
    rows = token_model.encode(mixed, k=16, batch_size=batch_size)[1:21]
    np.testing.assert_allclose(rows, alone, atol=1e-6)


@pytest.mark.parametrize("role", [None, "query"])
def test_a_code_does_not_depend_on_the_side_of_the_padding(token_model, texts, role):
    right = csr_st.encode(token_model, texts, k=16, role=role)
    token_model.tokenizer.padding_side = "left"
    mask = token_model[0].preprocess(texts)["attention_mask"]
    assert mask[-1].tolist() == [0] * 5 + [1] * 3
    # A BERT's places are counted from the left, padding too: take that out of the comparison.
    with torch.no_grad():
        token_model[0].model.embeddings.position_embeddings.weight.zero_()
    left = csr_st.encode(token_model, texts, k=16, role=role)
    token_model.tokenizer.padding_side = "right"
    right = csr_st.encode(token_model, texts, k=16, role=role)
    np.testing.assert_allclose(left.to_dense(), right.to_dense(), atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_and_special_tokens_are_left_out(token_model, side):
    """The prompt is read by the backbone, but has no token in the code."""
    token_model.tokenizer.padding_side = side
    head = csr_st.find_head(token_model)
    features = token_model[0].preprocess(["a dog ran", "sea"], prompt="the red ")
    assert features["prompt_length"] == 3  # [CLS] the red
    with torch.no_grad():
        read = token_model[0](features)
    tokens = head.tokens_of(read)
    assert tokens.texts.tolist() == [0, 0, 0, 1]
    ids = token_model.tokenizer.convert_tokens_to_ids(["a", "dog", "ran", "sea"])
    places = [(0, features["input_ids"][0].tolist().index(i)) for i in ids[:3]]
    places.append((1, features["input_ids"][1].tolist().index(ids[3])))
    expected = torch.stack([read["token_embeddings"][place] for place in places])
    expected = torch.nn.functional.normalize(expected, dim=1)
    torch.testing.assert_close(tokens.vectors, expected)
    rows = token_model.encode_query(["a dog ran", "sea"], k=64)
    for row, kept in zip(rows, (expected[:3], expected[3:]), strict=True):
        np.testing.assert_allclose(row, code_by_hand(head, kept.double().numpy(), 64), atol=2e-6)


def test_a_prompt_as_training_collates_it_is_left_out_too(token_model):
    """A trainer's data collator makes a tensor of the prompt's length, one number or one a row."""
    head = csr_st.find_head(token_model)
    features = token_model[0].preprocess(["a dog ran", "sea"], prompt="the red ")
    read = token_model[0](features)
    for length in (torch.tensor([3]), torch.tensor([3, 3])):
        assert head.tokens_of({**read, "prompt_length": length}).texts.tolist() == [0, 0, 0, 1]


def test_texts_without_padding_in_one_row_are_kept_apart():
    """Flash attention takes the texts of a batch in one row, with the places where they end."""
    vectors = torch.randn(6, 4)
    ids = torch.tensor([[2, 5, 6, 2, 7, 8]])
    features = {"token_embeddings": vectors[None], "input_ids": ids, "modality": "text"}
    features["cu_seq_lens_q"] = torch.tensor([0, 3, 6], dtype=torch.int32)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    found = tokens_of(features, torch.tensor([2]))
    assert found.n_texts == 2
    assert found.texts.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(found.vectors, unit[[1, 2, 4, 5]])
    found = tokens_of({**features, "prompt_length": 2}, NONE)
    assert found.texts.tolist() == [0, 1]
    torch.testing.assert_close(found.vectors, unit[[2, 5]])


def test_a_text_without_tokens_has_the_zero_code(token_model):
    rows = token_model.encode(["", "[CLS] [SEP]", "the", " "], k=8)
    assert not rows[[0, 1, 3]].any()
    assert np.linalg.norm(rows[2]) == pytest.approx(1)
    assert 0 < np.count_nonzero(rows[2]) <= 4  # one token, of k_token latents
    codes = csr_st.encode(token_model, ["", "the"], k=8)
    assert codes.norms[0] == 0
    assert np.isfinite(codes.values).all()
    assert not csr_st.encode(token_model, "", k=8).values.any()


def test_a_query_that_is_only_its_prompt_has_the_zero_code(token_model):
    assert not token_model.encode_query("").any()


def test_a_long_text_is_read_to_the_maximum_length(token_model):
    text = "the cat sat on the mat in the red house under a tree in the sea"
    words = text.split()
    whole, cut = token_model.encode([text, " ".join(words[:10])], k=64)
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    token_model.max_seq_length = 6
    np.testing.assert_allclose(
        token_model.encode(text, k=64),
        code_by_hand(
            csr_st.find_head(token_model), token_vectors(token_model, " ".join(words[:4])), 64
        ),
        atol=2e-6,
    )


def test_a_prompt_longer_than_the_maximum_length_leaves_no_token(token_model):
    token_model.max_seq_length = 4
    assert not token_model.encode("a dog", prompt="the red blue house ").any()


def test_nan_is_named_by_its_row(token_model, monkeypatch):
    head = csr_st.find_head(token_model)
    vectors = torch.randn(4, 3, 16)
    mask = torch.ones(4, 3)
    vectors[1, 2] = torch.nan
    vectors[3, 0, 5] = torch.inf
    with pytest.raises(ValueError, match=r"NaN or Inf in the token vectors.*rows \[1, 3\]"):
        head({"token_embeddings": vectors, "attention_mask": mask})
    mask[1, 2] = 0  # padding may be anything
    with pytest.raises(ValueError, match=r"rows \[3\]"):
        head({"token_embeddings": vectors, "attention_mask": mask})
    mask[3] = 0
    assert torch.isfinite(
        head({"token_embeddings": vectors, "attention_mask": mask})["sentence_embedding"]
    ).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_backbone_of_half_precision_keeps_the_head_in_float32(token_model, texts, dtype):
    expected = token_model.encode(texts, k=64)
    token_model.to(dtype)
    head = csr_st.find_head(token_model)
    assert {tensor.dtype for tensor in head.state_dict().values()} == {torch.float32}
    codes = csr_st.encode(token_model, texts, k=64)
    assert codes.values.dtype == np.float32
    assert np.einsum("nh,nh->n", codes.to_dense(), expected).min() > 0.98
    with torch.no_grad():
        read = token_model[0](token_model[0].preprocess(texts[:1]))
    vectors = read["token_embeddings"][0, 1:-1].double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(
        csr_st.encode(token_model, texts[:1], k=64).to_dense()[0],
        code_by_hand(head, vectors, 64),
        atol=2e-6,
    )


def test_autocast_around_a_model_keeps_the_head_in_its_type(token_model):
    tokens = csr_st.find_head(token_model).tokens_of(
        {"token_embeddings": torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))}
    )
    head = csr_st.find_head(token_model)
    expected = head.encode_tokens(tokens, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.encode_tokens(tokens, 64)
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=0)


@pytest.mark.parametrize("at", ["first", "vectors"])
def test_a_model_without_token_vectors_says_so(backbone, at):
    """Static embeddings, and models of vectors, have no tokens."""
    if at == "first":
        model, inputs = csr_st.attach(backbone, token_head()), ["the cat"]
    else:
        first = csr_st.vectors.VectorInput(16)
        model = csr_st.attach(SentenceTransformer(modules=[first], device="cpu"), token_head())
        inputs = [np.ones(16, np.float32)]
    with pytest.raises(
        ValueError, match=r"needs token_embeddings .* first module is a Transformer"
    ):
        model.encode(inputs)
    with pytest.raises(ValueError, match="needs token_embeddings"):
        csr_st.encode(model, inputs)


def plain(tokens: Tokens, encode, hidden_dim: int, pooling: str) -> torch.Tensor:
    """`pooled`, with a row for each token."""
    code: Code = encode(tokens.vectors)
    each = torch.zeros(len(tokens.vectors), hidden_dim).scatter(1, code.indices, code.values)
    rows = []
    for text in range(tokens.n_texts):
        own = each[tokens.texts == text]
        rows.append(own.sum(dim=0) if pooling == "sum" else own.amax(dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["sum", "max"])
@pytest.mark.parametrize("at_once", [1 << 24, 64, 5 * 64])
def test_chunks_give_the_gradient_of_a_plain_computation(monkeypatch, pooling, at_once):
    monkeypatch.setattr(token_pooling, "ACTIVATIONS_AT_ONCE", at_once)
    head = token_head(pooling=pooling)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(23, 16, generator=generator)
    texts = torch.arange(23) // 6
    found = []
    for function in (pooled, plain):
        head.zero_grad()
        leaf = vectors.clone().requires_grad_()
        tokens = Tokens(leaf, texts, 4)
        table = function(tokens, head._of_tokens, 64, pooling)
        weights = torch.randn(4, 64, generator=torch.Generator().manual_seed(4))
        (table.square() * weights).sum().backward()
        found.append([table.detach(), leaf.grad, *(p.grad for p in head.parameters())])
    assert found[0][1].abs().sum() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_reach_the_backbone_and_the_encoder(token_model):
    head = csr_st.find_head(token_model)
    token_model.train()
    features = token_model[0].preprocess(["the cat sat", "a dog"])
    rows = token_model(features)["sentence_embedding"]
    (rows[0] @ rows[1] + rows.sum()).backward()
    for parameter in (head.encoder_weight, head.latent_bias, head.pre_bias):
        assert parameter.grad.abs().sum() > 0
    assert token_model[0].model.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert head.latent_weights.grad is None


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_activations_of_a_chunk_are_bounded(monkeypatch, grad, n):
    """The encoder never sees more tokens than have so many activations, nor loses one."""
    monkeypatch.setattr(token_pooling, "ACTIVATIONS_AT_ONCE", 64 * 7 + 5)
    head = token_head()
    seen = []

    def encode(vectors):
        seen.append(len(vectors))
        return head._of_tokens(vectors)

    tokens = Tokens(torch.randn(n, 16), torch.arange(n) // 10, max(1, n // 10))
    with torch.set_grad_enabled(grad):
        table = pooled(tokens, encode, 64, "sum")
    assert table.shape == (max(1, n // 10), 64)
    assert sum(seen) == n
    assert max(seen) <= 7


def test_one_token_is_encoded_at_a_time_where_the_bound_is_below_its_latents(monkeypatch):
    monkeypatch.setattr(token_pooling, "ACTIVATIONS_AT_ONCE", 10)
    head, seen = token_head(), []

    def encode(vectors):
        seen.append(len(vectors))
        return head._of_tokens(vectors)

    with torch.no_grad():
        pooled(Tokens(torch.randn(3, 16), torch.zeros(3, dtype=torch.int64), 1), encode, 64, "max")
    assert seen == [1, 1, 1]


def test_the_whole_model_stays_below_the_bound(token_model, monkeypatch):
    """The same through the model: no product of the encoder has more entries than the bound."""
    monkeypatch.setattr(token_pooling, "ACTIVATIONS_AT_ONCE", 64 * 9)
    expected = token_model.encode(MANY, k=8)
    head, largest = csr_st.find_head(token_model), []
    pre_activations = head.pre_activations

    def watched(x):
        found = pre_activations(x)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(head, "pre_activations", watched)
    np.testing.assert_array_equal(token_model.encode(MANY, k=8), expected)
    assert max(largest) == 64 * 9


def test_a_shorter_code_is_a_prefix(token_model, texts):
    longest = csr_st.encode(token_model, texts, k=64)
    for k in (1, 3, 8, 32):
        found, expected = csr_st.encode(token_model, texts, k=k), longest.prefix(k)
        np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=1e-6)
        assert (np.diff(found.values, axis=1) <= 0).all()
        shared = found.values > 0
        np.testing.assert_array_equal(found.indices[shared], expected.indices[shared])


def test_rarity_is_the_root_of_the_idf_of_lucene():
    frequencies = torch.tensor([0.0, 1, 5, 10])
    expected = [np.sqrt(np.log(1 + (10 - f + 0.5) / (f + 0.5))) for f in (0, 1, 5, 10)]
    np.testing.assert_allclose(rarity(frequencies, 10).numpy(), expected, rtol=1e-6)


def test_pooled_is_the_table_before_weights(token_model, texts):
    head = csr_st.find_head(token_model)
    with torch.no_grad():
        read = token_model[0](token_model[0].preprocess(texts))
        table = head.pooled(head.tokens_of(read))
    for row, text in zip(table.numpy(), texts, strict=True):
        np.testing.assert_allclose(
            row, pooled_by_hand(head, token_vectors(token_model, text)), atol=2e-6
        )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"level": "word"}, ValueError, "level='word' is not one of 'text', 'token'"),
        ({"pooling": "mean"}, ValueError, "pooling='mean' is not one of 'sum', 'max'"),
        ({"k_token": 0}, ValueError, "k_token=0 is below 1"),
        ({"k_token": 65}, ValueError, "k_token=65 exceeds hidden_dim=64"),
        ({"k_token": 1.5}, TypeError, "k_token=1.5 is not an integer"),
        ({"saturation": 0}, ValueError, "saturation=0 must be above 0"),
        ({"saturation": float("nan")}, ValueError, "saturation=nan must be above 0"),
        ({"saturation": float("inf")}, ValueError, "saturation=inf must be"),
        ({"saturation": "a"}, TypeError, "saturation='a' must be a number"),
        ({"text_share": -0.1}, ValueError, "text_share=-0.1 must be within 0..1"),
        ({"text_share": 1.5}, ValueError, "text_share=1.5 must be within 0..1"),
        ({"text_share": "a"}, TypeError, "text_share='a' must be a number"),
        ({"text_share": 0.1, "pooling": "max"}, ValueError, "adds to sums only"),
        ({"skipped_tokens": [-1]}, ValueError, r"skipped_tokens=\[-1\] must be a list of integers"),
        ({"skipped_tokens": 3}, ValueError, "skipped_tokens=3 must be a list of integers"),
        ({"debias": True}, ValueError, "level='token' has no debias"),
        ({"short_ks": [2]}, ValueError, "level='token' has no short_ks"),
        ({"modalities": ["text"]}, ValueError, "level='token' has no modalities"),
        ({"residual_basis": "0" * 16}, ValueError, "level='token' has no residual_basis"),
        ({"power": 0.5}, ValueError, "level='token' has no power"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        token_head(**settings)


def test_a_small_head_has_as_many_latents_a_token_as_it_can():
    assert csr_st.SparseCSRHead(2, 5, k=2, level="token").k_token == 5
    assert csr_st.SparseCSRHead(2, 80, k=2, level="token").k_token == 8


def test_a_text_level_head_refuses_tokens(head):
    tokens = Tokens(torch.randn(3, 16), torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="level='text' encodes vectors of texts; call encode"):
        head.encode_tokens(tokens)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ValueError, match="width"):
        token_head()({"token_embeddings": torch.randn(2, 3, 8)})


def test_modules_that_follow_the_transformer_may_change_the_pooled_vector(token_folder, texts):
    """Codes depend on the tokens alone."""
    rows = [
        csr_st.attach(
            SentenceTransformer(
                modules=[Transformer(token_folder), Pooling(16, mode)], device="cpu"
            ),
            token_head(),
        ).encode(texts)
        for mode in ("mean", "cls")
    ]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_over_long_texts_lose_nothing_in_a_head_of_half_precision(dtype):
    """600 equal tokens give 600 times the latent of one; bfloat16 alone would stop at 256."""
    head = token_head(dtype=dtype)
    one = torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    single = head.pooled(Tokens(one, torch.zeros(1, dtype=torch.int64), 1))
    many = head.pooled(Tokens(one.repeat(600, 1), torch.zeros(600, dtype=torch.int64), 1))
    torch.testing.assert_close(many, 600 * single, rtol=1e-3, atol=0)
    code = head.encode_tokens(Tokens(one, torch.zeros(1, dtype=torch.int64), 1))
    assert code.values.dtype == head.encoder_weight.dtype
