"""Promise: any file given to `convert` gives the right head, or an error that says what is wrong.

The files are state dicts with a tensor missing, added, of a wrong shape or type, or not finite;
pickles of other objects, among them one that would run code; and files with bytes cut or altered.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from csr_st import SparseCSRHead
from csr_st.convert import head_from_file

D, H = 3, 6
SHAPES = {
    "csr": {"encoder.weight": (H, D), "pre_bias": (D,), "latent_bias": (H,)},
    "compressae": {"encoder_w": (D, H), "encoder_b": (H,), "decoder_w": (H, D)},
}
DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.uint8, torch.bool, torch.complex64),
]
FLOATING = DTYPES[:5]
NOT_TENSORS = [None, 1, "text", [1.0], {"a": 1}, {}, (), b"bytes", 1.5]


class Code:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@st.composite
def tensors(draw, shape):
    if draw(st.integers(0, 5)) == 0:
        shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    tensor = torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape)
    tensor = tensor.to(draw(st.sampled_from(DTYPES if draw(st.booleans()) else [torch.float32])))
    if tensor.is_floating_point() and tensor.numel() and draw(st.integers(0, 7)) == 0:
        tensor.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), 1e4]))
    return tensor


@st.composite
def state_dicts(draw):
    """A state dict, most of them with something wrong in it."""
    weights = {}
    for name, shape in SHAPES[draw(st.sampled_from(sorted(SHAPES)))].items():
        kind = draw(st.integers(0, 9))
        if kind == 0:
            continue
        weights[name] = draw(st.sampled_from(NOT_TENSORS)) if kind == 1 else draw(tensors(shape))
    if draw(st.integers(0, 3)) == 0:
        weights["decoder.linear.weight"] = draw(tensors((H, D)))
    if draw(st.integers(0, 3)) == 0:
        weights[draw(st.sampled_from(["extra", "", "module.pre_bias", "opt.lr"]))] = torch.ones(2)
    if draw(st.integers(0, 3)) == 0:
        weights = {f"module.{name}": value for name, value in weights.items()}
    return weights


@st.composite
def objects(draw, trace):
    """What may be in a pickled checkpoint."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return draw(st.sampled_from([*NOT_TENSORS, torch.ones(2), Code(trace)]))
    weights = draw(state_dicts())
    if kind == 1:
        key = draw(st.sampled_from(["state_dict", "model_state_dict", "model", "net"]))
        return {key: weights, "epoch": 3}
    if kind == 2:
        return {**weights, 3: torch.ones(1), None: 1}
    if kind == 3:
        return {**weights, "hook": Code(trace)}
    return weights


def altered(draw, content):
    """The bytes of a file, cut, changed, or others altogether."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == 2:
        return draw(st.binary(max_size=200))
    if kind == 3:
        length = draw(st.sampled_from([0, 1, 2**31, 2**63, 2**64 - 1]))
        return struct.pack("<Q", length) + content[8:]
    return content


def expected_head(weights, k):
    """Whether named tensors are a head, told without the code under test; None if not sure."""
    if not isinstance(weights, dict) or any(isinstance(v, Code) for v in weights.values()):
        return None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    plain = {str(name).removeprefix("module."): value for name, value in weights.items()}
    for kind, shapes in SHAPES.items():
        fits = all(
            isinstance(plain.get(name), torch.Tensor)
            and plain[name].shape == shape
            and plain[name].dtype in FLOATING[:4]
            and bool(torch.isfinite(plain[name].double()).all())
            for name, shape in shapes.items()
        )
        if fits and k <= (H if kind == "csr" else 2 * H) and "decoder.linear.weight" not in plain:
            return plain
    return None


def check(data, folder, change=True):
    trace = str(folder / "trace")
    k = data.draw(st.sampled_from([1, 2, 5, 6, 7, 12, 13]))
    if data.draw(st.booleans()):
        content = data.draw(objects(trace))
        path = folder / data.draw(st.sampled_from(["a.pt", "b.pth", "c.bin", "d"]))
        old = data.draw(st.booleans())
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    else:
        content = data.draw(state_dicts())
        content = {n: v for n, v in content.items() if isinstance(v, torch.Tensor)}
        path = folder / "e.safetensors"
        save_file(content, path)
    whole = path.read_bytes()
    path.write_bytes(altered(data.draw, whole) if change else whole)
    is_whole = path.read_bytes() == whole
    try:
        head = head_from_file(path, k)
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = str(error)
        assert len(message) > 20
        assert "\n" not in message
        assert "weights_only" not in message  # torch's advice to run the file's code
        assert not is_whole or expected_head(content, k) is None, message
    else:
        assert isinstance(head, SparseCSRHead)
        assert head.input_dim > 0
        assert head.k == k <= head.hidden_dim
        assert all(torch.isfinite(p).all() for p in head.parameters())
        plain = expected_head(content, k) if is_whole else None
        if plain is not None and "encoder_w" not in plain:
            assert torch.equal(head.encoder_weight, plain["encoder.weight"].float())
            assert torch.equal(head.latent_bias, plain["latent_bias"].float())
    assert not Path(trace).exists()


@given(st.data())
def test_any_checkpoint_gives_a_head_or_a_clear_error(data):
    with tempfile.TemporaryDirectory() as folder:
        check(data, Path(folder))


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.data())
def test_a_thousand_checkpoints_give_a_head_or_a_clear_error(data):
    with tempfile.TemporaryDirectory() as folder:
        check(data, Path(folder))
