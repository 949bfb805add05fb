"""The head as a function of vectors: its maths, its bounds and its errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from csr_st import Decoder, SparseCodes, SparseCSRHead, find_head

INPUT_DIM, HIDDEN_DIM = 6, 24
vectors = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(INPUT_DIM)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)
ks = st.integers(1, HIDDEN_DIM)


def random_head(input_dim=INPUT_DIM, hidden_dim=HIDDEN_DIM, seed=0, **settings) -> SparseCSRHead:
    """A head whose every parameter, biases and decoder too, is away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    head = SparseCSRHead(input_dim, hidden_dim, **{"k": 4, **settings})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head


def dense_codes(head, x, k=None, **kwargs) -> torch.Tensor:
    return head({"sentence_embedding": x}, k=k, **kwargs)["sentence_embedding"]


def by_hand(**settings) -> SparseCSRHead:
    """Two dimensions, three latents: small enough for paper."""
    head = SparseCSRHead(2, 3, **{"k": 2, "normalize": False, **settings})
    with torch.no_grad():
        head.pre_bias.copy_(torch.tensor([1.0, 0.0]))
        head.latent_bias.copy_(torch.tensor([0.0, 0.5, -9.0]))
        head.encoder_weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        if not head.tied:
            head.decoder_weight.copy_(torch.tensor([[1.0, 1.0], [0.0, -1.0], [5.0, 5.0]]))
    return head


def test_code_worked_out_by_hand():
    # v - b_pre = (3, 1); W_enc (v - b_pre) + b_enc = (3, 2 + 0.5, 4 - 9).
    code = by_hand().encode(torch.tensor([[4.0, 1.0]]))
    assert code.values.tolist() == [[3.0, 2.5]]
    assert code.indices.tolist() == [[0, 1]]


def test_short_codes_decode_through_their_maps():
    head = by_hand(short_ks=[1])
    with torch.no_grad():
        head.short_maps.copy_(torch.tensor([[[1.0, 0.5], [0.0, 2.0]]]))
    v = torch.tensor([[4.0, 1.0]])
    # At k = 1 the sum is 3 (1, 1), which the map takes to (3, 1.5 + 6); b_pre is (1, 0).
    assert head.decode(*head.encode(v, 1)).tolist() == [[4.0, 7.5]]
    # At k = 2 there is no map: 3 (1, 1) + 2.5 (0, -1) + (1, 0).
    assert head.decode(*head.encode(v, 2)).tolist() == [[4.0, 0.5]]


def test_a_map_serves_the_ks_up_to_its_own():
    head = random_head(short_ks=[2, 5])
    plain = copy.deepcopy(head)
    plain.drop_short_maps()
    x = torch.randn(4, INPUT_DIM, generator=torch.Generator().manual_seed(1))
    for k, served in {1: 0, 2: 0, 3: 1, 5: 1}.items():
        sums = plain.decode(*head.encode(x, k)) - head.pre_bias
        expected = sums @ head.short_maps[served] + head.pre_bias
        torch.testing.assert_close(head.decode(*head.encode(x, k)), expected)
    code = head.encode(x, 6)
    assert torch.equal(head.decode(*code), plain.decode(*code))


@pytest.mark.parametrize("k", range(1, 8))
def test_the_decoder_of_arrays_takes_the_same_map(k):
    head = random_head(short_ks=[2, 5], normalize=False)
    x = torch.randn(4, INPUT_DIM, generator=torch.Generator().manual_seed(2))
    code = head.encode(x, k)
    codes = SparseCodes(code.indices.numpy().astype(np.uint8), code.values.detach().numpy(), 24)
    expected = head.decode(*code).detach().numpy()
    np.testing.assert_allclose(
        Decoder.from_head(head).decode(codes), expected, rtol=1e-4, atol=1e-4
    )


def test_resetting_makes_the_maps_do_nothing():
    head = random_head(short_ks=[4])
    head.reset_parameters()
    code = head.encode(torch.randn(3, INPUT_DIM), 4)
    decoded = head.decode(*code)
    head.drop_short_maps()
    torch.testing.assert_close(decoded, head.decode(*code))


@pytest.mark.parametrize("short_ks", [[0], [2, 2], [4, 2], [25], ["2"], [True], 2])
def test_short_ks_must_rise_within_hidden_dim(short_ks):
    with pytest.raises(ValueError, match=r"short_ks=.* rising list of integers in 1\.\.24"):
        SparseCSRHead(INPUT_DIM, HIDDEN_DIM, k=4, short_ks=short_ks)


def test_negative_activations_become_zero_values():
    code = by_hand().encode(torch.tensor([[4.0, 1.0]]), k=3)
    assert code.values.tolist() == [[3.0, 2.5, 0.0]]
    assert sorted(code.indices[0].tolist()) == [0, 1, 2]


def test_reconstruction_worked_out_by_hand():
    # 3 * (1, 1) + 2.5 * (0, -1) + b_pre
    head = by_hand()
    assert head.decode(*head.encode(torch.tensor([[4.0, 1.0]]))).tolist() == [[4.0, 0.5]]


def test_power_worked_out_by_hand():
    head, x = by_hand(power=0.5), torch.tensor([[5.0, 1.75]])
    code = head.encode(x)  # magnitudes 4 and 2 * 1.75 + 0.5 = 4; then their square roots
    assert code.values.tolist() == [[2.0, 2.0]]
    assert dense_codes(head, x).tolist() == [[2.0, 2.0, 0.0]]
    # Decoding takes the magnitudes: 4 (1, 1) + 4 (0, -1) + b_pre.
    assert head.decode(*code).tolist() == [[5.0, 0.0]]
    # At k = 1 of negative activations alone there is nothing to take a root of.
    nothing = head.encode(torch.tensor([[-5.0, -5.0]]), 1)
    assert nothing.values.tolist() == [[0.0]]


def test_gradients_through_a_power_are_finite_where_nothing_is_active():
    head = random_head(power=0.5)
    x = torch.randn(8, INPUT_DIM, generator=torch.Generator().manual_seed(1))
    code = head.encode(x, HIDDEN_DIM)
    assert (code.values == 0).any()
    code.values.sum().backward()
    assert torch.isfinite(head.encoder_weight.grad).all()
    # d/dz of z^0.5 is 0.5 / z^0.5: the bias of a latent gets that of each item it is active in.
    expected = torch.zeros(HIDDEN_DIM)
    active = code.values > 0
    expected.index_add_(0, code.indices[active], 0.5 / code.values[active].detach())
    torch.testing.assert_close(head.latent_bias.grad, expected)


def test_tied_reconstruction_uses_encoder_rows():
    # 3 * (1, 0) + 2.5 * (0, 2) + b_pre
    head = by_hand(tied=True)
    assert head.decode(*head.encode(torch.tensor([[4.0, 1.0]]))).tolist() == [[4.0, 5.0]]


def test_unit_norm_worked_out_by_hand():
    row = dense_codes(by_hand(normalize=True), torch.tensor([[4.0, 1.0]]))[0]
    length = (3**2 + 2.5**2) ** 0.5
    torch.testing.assert_close(row, torch.tensor([3 / length, 2.5 / length, 0.0]))


@pytest.mark.parametrize("k", [1, 5, 24])
def test_equals_sparse_auto_encoder_with_the_same_weights(k):
    head = random_head(normalize=False, tied=True)
    theirs = SparseAutoEncoder(INPUT_DIM, HIDDEN_DIM, k=k, normalize=False)
    with torch.no_grad():
        theirs.encoder.weight.copy_(head.encoder_weight)
        theirs.pre_bias.copy_(head.pre_bias)
        theirs.latent_bias.copy_(head.latent_bias)
    x = torch.randn(40, INPUT_DIM, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs({"sentence_embedding": x})["sentence_embedding"]
        assert torch.equal(dense_codes(head, x, k), expected)
        torch.testing.assert_close(head.decode(*head.encode(x, k)), theirs.decode(expected))


@given(vectors, ks)
def test_at_most_k_active_at_unit_norm_and_never_negative(x, k):
    rows = dense_codes(random_head(), torch.from_numpy(x), k)
    assert rows.shape == (len(x), HIDDEN_DIM)
    assert bool(((rows > 0).sum(dim=1) <= k).all())
    assert bool((rows >= 0).all())
    for length in rows.norm(dim=1).tolist():
        assert length == 0 or length == pytest.approx(1, abs=1e-5)


@given(vectors, ks)
def test_code_is_sorted_with_distinct_indices(x, k):
    values, indices = random_head().encode(torch.from_numpy(x), k)
    assert values.shape == indices.shape == (len(x), k)
    assert bool((values[:, :-1] >= values[:, 1:]).all())
    assert all(len(set(row)) == k for row in indices.tolist())
    assert 0 <= int(indices.min()) <= int(indices.max()) < HIDDEN_DIM


@given(vectors, ks)
def test_code_keeps_the_largest_activations(x, k):
    head = random_head()
    values, indices = head.encode(torch.from_numpy(x), k)
    full = head.pre_activations(torch.from_numpy(x)).relu()
    assert torch.equal(full.gather(1, indices), values)
    assert torch.equal(values, full.sort(dim=1, descending=True).values[:, :k])


@given(st.integers(0, 10_000), ks)
def test_smaller_k_is_a_prefix(seed, k):
    head = random_head(seed=seed)
    x = torch.randn(4, INPUT_DIM, generator=torch.Generator().manual_seed(seed))
    longest, shorter = head.encode(x, HIDDEN_DIM), head.encode(x, k)
    assert torch.equal(longest.values[:, :k], shorter.values)
    active = shorter.values > 0
    assert torch.equal(longest.indices[:, :k][active], shorter.indices[active])


@given(vectors, ks, st.booleans())
def test_decode_equals_the_dense_product(x, k, tied):
    head = random_head(tied=tied)
    code = head.encode(torch.from_numpy(x), k)
    z = torch.zeros(len(x), HIDDEN_DIM).scatter(1, code.indices, code.values)
    torch.testing.assert_close(
        head.decode(*code), z @ head.decoder_weight + head.pre_bias, rtol=1e-4, atol=1e-2
    )


def test_any_leading_shape():
    head = random_head(k=3)
    x = torch.randn(2, 5, INPUT_DIM, generator=torch.Generator().manual_seed(0))
    code = head.encode(x)
    assert code.indices.shape == (2, 5, 3)
    torch.testing.assert_close(head.decode(*code)[1], head.decode(*head.encode(x[1])))
    assert head.decode(*head.encode(x[0, 0])).shape == (INPUT_DIM,)
    assert head.decode(*head.encode(x[0, :0])).shape == (0, INPUT_DIM)


def test_forward_keeps_the_dense_vector_and_its_input():
    x = torch.ones(2, INPUT_DIM)
    features = {"sentence_embedding": x, "other": "kept"}
    out = random_head()(features)
    assert out["dense_embedding"] is x
    assert out["other"] == "kept"
    assert set(features) == {"sentence_embedding", "other"}
    assert features["sentence_embedding"] is x


def test_forward_writes_no_state_in_training():
    head = random_head().train()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    dense_codes(head, torch.ones(2, INPUT_DIM))
    assert set(head.state_dict()) == set(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert not list(head.buffers())


def test_gradients_reach_every_parameter_through_active_latents_only():
    head = random_head(k=2)
    x = torch.randn(1, INPUT_DIM, generator=torch.Generator().manual_seed(1))
    code = head.encode(x)
    head.decode(*code).sum().backward()
    active = set(code.indices[code.values > 0].tolist())
    assert set(head.latent_bias.grad.nonzero()[:, 0].tolist()) == active
    assert set(head.encoder_weight.grad.any(dim=1).nonzero()[:, 0].tolist()) == active
    assert set(head.decoder_weight.grad.any(dim=1).nonzero()[:, 0].tolist()) == active
    assert bool(head.pre_bias.grad.any())


def test_starts_with_four_latents_a_dimension_in_unit_rows():
    head = SparseCSRHead(10)
    assert (head.hidden_dim, head.k, head.query_k) == (40, 32, None)
    torch.testing.assert_close(head.encoder_weight.norm(dim=1), torch.ones(40))
    assert torch.equal(head.encoder_weight, head.decoder_weight)
    assert head.encoder_weight is not head.decoder_weight
    assert not head.pre_bias.any()
    assert not head.latent_bias.any()


@pytest.mark.parametrize(
    ("call", "task", "expected"),
    [
        ({}, None, 4),
        ({}, "document", 4),
        ({}, "query", 9),
        ({"k": 3}, "query", 3),
        ({"max_active_dims": 2}, "query", 2),
        ({"k": 3, "max_active_dims": 7}, None, 3),
        ({"k": np.int64(5)}, None, 5),
    ],
)
def test_k_of_a_call(call, task, expected):
    head = random_head(k=4, query_k=9, normalize=False)
    with torch.no_grad():
        head.latent_bias.fill_(1000)  # every latent positive: all k of them count
    rows = dense_codes(head, torch.ones(1, INPUT_DIM), task=task, **call)
    assert int((rows > 0).sum()) == expected


def test_query_k_is_k_when_there_is_none():
    assert random_head(k=4).resolve_k(task="query") == 4


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "{0}=0 is below 1; pass 1 <= {0} <= 24"),
        (-3, ValueError, "{0}=-3 is below 1; pass 1 <= {0} <= 24"),
        (25, ValueError, "{0}=25 exceeds hidden_dim=24; pass 1 <= {0} <= 24"),
        (2.0, TypeError, "{0}=2.0 is not an integer; pass 1 <= {0} <= 24"),
        ("8", TypeError, "{0}='8' is not an integer; pass 1 <= {0} <= 24"),
        (True, TypeError, "{0}=True is not an integer; pass 1 <= {0} <= 24"),
    ],
)
def test_bad_k_is_refused_with_value_bound_and_fix(k, error, message):
    head, x = random_head(k=3), torch.ones(1, INPUT_DIM)
    calls = {
        "k": [
            lambda: head.encode(x, k),
            lambda: dense_codes(head, x, k),
            lambda: SparseCSRHead(INPUT_DIM, HIDDEN_DIM, k=k),
        ],
        "max_active_dims": [lambda: dense_codes(head, x, max_active_dims=k)],
        "query_k": [lambda: SparseCSRHead(INPUT_DIM, HIDDEN_DIM, k=3, query_k=k)],
    }
    for name, attempts in calls.items():
        for attempt in attempts:
            with pytest.raises(error) as caught:
                attempt()
            assert str(caught.value) == message.format(name)


def test_k_set_to_nonsense_later_is_refused_too():
    head = random_head(k=3)
    head.k = 0
    with pytest.raises(ValueError, match="k=0 is below 1"):
        dense_codes(head, torch.ones(1, INPUT_DIM))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"input_dim": 0}, ValueError, "input_dim=0 is below 1; pass 1 <= input_dim <= 16777216"),
        ({"input_dim": 2.0}, TypeError, "input_dim=2.0 is not an integer"),
        ({"input_dim": True}, TypeError, "input_dim=True is not an integer"),
        ({"input_dim": 2**62}, ValueError, "exceeds the largest supported, 16777216"),
        ({"hidden_dim": -1}, ValueError, "hidden_dim=-1 is below 1"),
        ({"hidden_dim": 2**24 + 1}, ValueError, "hidden_dim=16777217 exceeds the largest"),
        ({"dtype": "float64"}, ValueError, "dtype='float64' is not one of 'float32', 'bfloat16'"),
        ({"dtype": ["float32"]}, ValueError, "is not one of 'float32'"),
        ({"normalize": "false"}, TypeError, "normalize='false' must be True or False"),
        ({"tied": 1}, TypeError, "tied=1 must be True or False"),
        ({"power": 0}, ValueError, "power=0 must be above 0 and at most 1"),
        ({"power": float("nan")}, ValueError, "power=nan must be above 0 and at most 1"),
        ({"power": "0.5"}, TypeError, "power='0.5' must be a number"),
        ({"residual_seed": -1}, ValueError, "residual_seed=-1 is below 0"),
        ({"residual_seed": 2**32}, ValueError, "residual_seed=4294967296 exceeds 4294967295"),
        ({"residual_seed": 0.5}, TypeError, "residual_seed=0.5 is not an integer"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        SparseCSRHead(**{"input_dim": 4, "k": 1, **settings})


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="width 7 given to a head with input_dim=6; use the back"):
        random_head().encode(torch.ones(2, 7))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_named(bad):
    x = torch.ones(4, INPUT_DIM)
    x[1, 2] = x[3, 0] = bad
    with pytest.raises(ValueError, match=r"NaN or Inf .* rows \[1, 3\]; check the backbone"):
        random_head().encode(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_floating_type_are_computed_in_float32(dtype):
    x = torch.randn(3, INPUT_DIM, generator=torch.Generator().manual_seed(5)).to(dtype)
    head = random_head()
    code = head.encode(x)
    assert code.values.dtype == torch.float32
    assert torch.equal(code.values, head.encode(x.float()).values)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_casting_the_model_leaves_the_head_bit_equal(cast):
    head = random_head()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    wrapped = torch.nn.Sequential(torch.nn.Linear(2, 2), head)
    getattr(wrapped, cast)()
    assert wrapped[0].weight.dtype != torch.float32
    for name, tensor in head.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_head_asked_to_compute_in_less_does(dtype):
    head = random_head(dtype=dtype, k=4)
    x = torch.randn(3, INPUT_DIM, generator=torch.Generator().manual_seed(5))
    code = head.float().encode(x)
    assert code.values.dtype == getattr(torch, dtype)
    assert head.decode(*code).dtype == getattr(torch, dtype)
    torch.testing.assert_close(
        code.values.float(), random_head(k=4).encode(x).values, rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies_are_equal_and_independent(clone, tied):
    head = random_head(tied=tied, k=5)
    x = torch.randn(3, INPUT_DIM, generator=torch.Generator().manual_seed(5))
    copied = clone(head)
    expected = dense_codes(head, x)
    assert torch.equal(dense_codes(copied, x), expected)
    assert (copied.decoder_weight is copied.encoder_weight) == tied
    with torch.no_grad():
        copied.encoder_weight.zero_()
    assert torch.equal(dense_codes(head, x), expected)


def test_find_head_wants_exactly_one():
    head = random_head()
    assert find_head(torch.nn.Sequential(torch.nn.Linear(2, 2), head)) is head
    with pytest.raises(
        ValueError, match=r"0 SparseCSRHead modules where one is needed; csr_st\.att"
    ):
        find_head(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="2 SparseCSRHead modules"):
        find_head(torch.nn.Sequential(head, random_head()))


def test_a_partial_state_leaves_the_maps_and_one_of_a_head_without_maps_drops_them():
    head = SparseCSRHead(4, 8, k=2, short_ks=[2])
    head.load_state_dict({"pre_bias": torch.ones(4)}, strict=False)
    assert head.short_ks == [2]
    head.load_state_dict(SparseCSRHead(4, 8, k=2).state_dict())
    assert head.short_maps is None
