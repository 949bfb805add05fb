"""Codes and their files of random content: the right result, or an error that names what is wrong.

Each property runs on a few examples in the fast tests, and on a thousand in the slow ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from test_codes import any_codes, assert_same

import csr_st
from csr_st import CodeStore, SparseCodes
from csr_st.vectors import VectorInput

REFUSED = (ValueError, TypeError, IndexError, FileNotFoundError)


class Place(NamedTuple):
    """A folder for files, and a small store of codes: its files by name, and its codes."""

    folder: Path
    files: dict[str, bytes]
    codes: SparseCodes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "codes"
    model = SentenceTransformer(
        modules=[VectorInput(4), csr_st.SparseCSRHead(4, 9, k=3)], device="cpu"
    )
    vectors = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    CodeStore.encode(model, list(vectors), path, k=3, shard_rows=4)
    files = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    return Place(tmp_path_factory.mktemp("ünïcode folder"), files, CodeStore.open(path).codes())


def quick_and_thorough(*strategies):
    """Two tests of one property: on the profile's number of examples, and on a thousand."""

    def decorate(check):
        relaxed = {"suppress_health_check": list(HealthCheck)}
        quick = settings(**relaxed)(given(*strategies)(check))
        more = settings(max_examples=1000, **relaxed)(given(*strategies)(_copy(check)))
        thorough = pytest.param(more, id="thorough", marks=pytest.mark.slow)

        @pytest.mark.parametrize("run", [pytest.param(quick, id="quick"), thorough])
        def test(run, place):
            run(place)

        return test

    return decorate


def or_refused(call, mention=""):
    """What the call returns; None if it is refused by an error that mentions what it must."""
    try:
        return call()
    except REFUSED as error:
        if not str(error) or mention not in str(error):
            raise AssertionError(f"{error!r} does not mention {mention!r}") from error
        return None


def _copy(check):
    @functools.wraps(check)
    def again(*arguments, **named):
        check(*arguments, **named)

    return again


numbers = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**16, 2**31, 2**40, -(2**40)]), st.booleans()
)
anything = st.one_of(st.none(), st.text(max_size=3), st.floats(), numbers, st.lists(numbers))
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
matrices = st.tuples(st.integers(0, 4), st.integers(0, 4))
dtypes = st.one_of(
    hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(),
    hnp.boolean_dtypes(), hnp.unicode_string_dtypes(max_len=2), hnp.complex_number_dtypes(),
)  # fmt: skip
random_arrays = st.one_of(
    hnp.arrays(dtypes, shapes), st.lists(st.lists(numbers, max_size=3), max_size=3), anything
)


@st.composite
def nearly_codes(draw):
    """Arguments of `SparseCodes` of fitting shapes and types, whose content may be invalid."""
    shape = draw(matrices)
    indices = draw(hnp.arrays(draw(st.sampled_from(["u1", "i2", ">u4", "i8"])), shape,
                              elements=st.integers(0, 5)))  # fmt: skip
    floats = st.one_of(
        st.floats(0, 5, width=16), st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -0.0, 6e4, 6e-8])
    )
    kind = draw(st.sampled_from(["f2", "f4", ">f4"]))
    values = draw(hnp.arrays(kind, shape, elements=floats))
    if draw(st.booleans()):
        values = np.nan_to_num(np.abs(values), posinf=1)
        indices = np.tile(np.arange(shape[1]), (shape[0], 1)).astype(indices.dtype)
    good_norms = hnp.arrays("f4", shape[0], elements=st.floats(0, 9, width=32))
    norms = draw(st.one_of(st.none(), good_norms, random_arrays))
    return indices, values, draw(st.one_of(st.integers(1, 9), numbers)), norms


def check_valid(codes, indices=None, values=None):
    """Whether codes keep what the class promises, and are the arrays that they were made from."""
    assert codes.indices.shape == codes.values.shape == (len(codes), codes.k)
    assert 1 <= codes.k <= codes.hidden_dim
    assert np.isfinite(codes.values).all()
    assert (codes.values >= 0).all()
    assert (np.diff(codes.values.astype(float), axis=1) <= 0).all()
    for row, (latents, magnitudes) in enumerate(zip(codes.indices, codes.values, strict=True)):
        assert len(set(latents[magnitudes > 0].tolist())) == (magnitudes > 0).sum()
        if indices is not None:
            given_row = zip(indices[row].tolist(), values[row].tolist(), strict=True)
            expected = sorted((latent, value) for latent, value in given_row if value > 0)
            found = zip(latents.tolist(), magnitudes.tolist(), strict=True)
            assert sorted((latent, value) for latent, value in found if value > 0) == expected
    assert codes.norms is None or (codes.norms >= 0).all()
    if codes.hidden_dim < 1000:
        dense = codes.to_dense()
        assert dense.shape == codes.shape
        np.testing.assert_array_equal(codes.to_torch().to_dense().numpy(), dense)


@quick_and_thorough(st.one_of(nearly_codes(), st.tuples(*[random_arrays] * 4)))
def test_arrays_become_valid_codes_or_are_refused(place, arguments):
    codes = or_refused(lambda: SparseCodes(*arguments))
    if codes is not None:
        check_valid(codes, *map(np.asarray, arguments[:2]))


rows = st.one_of(
    st.integers(-9, 9), st.slices(6), anything, hnp.arrays(dtypes, shapes),
    st.lists(st.integers(-7, 6), max_size=6), st.lists(st.booleans(), min_size=6, max_size=6),
    st.tuples(numbers, numbers),
)  # fmt: skip


def _as_rows(selection):
    """NumPy takes an empty list for numbers of no type."""
    return selection if isinstance(selection, slice) or np.size(selection) else np.empty(0, int)


@quick_and_thorough(any_codes(), rows)
def test_any_selection_is_of_rows_or_is_refused(place, codes, selection):
    found = or_refused(lambda: codes[selection])
    if found is None:
        return
    check_valid(found)
    numbered = np.arange(len(codes))[_as_rows(selection)]
    assert_same(found, SparseCodes(
        codes.indices[numbered].reshape(-1, codes.k), codes.values[numbered].reshape(-1, codes.k),
        codes.hidden_dim, None if codes.norms is None else codes.norms[numbered].reshape(-1),
        None if codes.residual is None else codes.residual[numbered.reshape(-1)],
    ))  # fmt: skip


@quick_and_thorough(st.one_of(numbers, anything), any_codes())
def test_any_prefix_is_shorter_or_is_refused(place, k, codes):
    found = or_refused(lambda: codes.prefix(k), f"k={k!r}")
    if found is not None:
        assert found.k == k
        np.testing.assert_array_equal(found.indices, codes.indices[:, :k])
        check_valid(found)


@quick_and_thorough(st.lists(st.one_of(any_codes(), anything), max_size=3), st.booleans())
def test_any_parts_are_joined_or_refused(place, parts, as_generator):
    given = iter(parts) if as_generator else parts
    joined = or_refused(lambda: SparseCodes.concatenate(given))
    if joined is not None:
        assert len(joined) == sum(map(len, parts))
        expected = np.concatenate([part.to_dense() for part in parts])
        np.testing.assert_array_equal(joined.to_dense(), expected)


@quick_and_thorough(any_codes(), st.sampled_from(["f2", "f4", "f8", "i1", "U1", "?"]))
def test_conversions_keep_codes_valid(place, codes, dtype):
    for made in (codes.raw(), codes.normalize(), codes.raw().normalize()):
        check_valid(made)
    with contextlib.suppress(*REFUSED):
        check_valid(codes.astype(dtype))


# ---- files


@st.composite
def damage(draw, size):
    """A function from a file's bytes to damaged ones."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "random", "nothing"]))
    chosen = draw(st.integers(0, max(size - 1, 0)))
    more = draw(st.binary(min_size=1, max_size=9))

    def damaged(content: bytes) -> bytes:
        at = min(chosen, len(content))
        return {
            "cut": content[:at],
            "flip": content[:at] + bytes([content[at] ^ more[0]]) + content[at + 1 :]
            if at < len(content)
            else content,
            "insert": content[:at] + more + content[at:],
            "random": more,
            "nothing": content,
        }[kind]

    return damaged


@quick_and_thorough(any_codes(), damage(600))
def test_a_damaged_file_is_the_same_codes_or_is_refused(place, codes, damaged):
    path = place.folder / "codes.safetensors"
    codes.save(path)
    path.write_bytes(damaged(path.read_bytes()))
    found = or_refused(lambda: SparseCodes.load(path), str(path))
    if found is not None:
        assert_same(found, codes)
    assert [entry.name for entry in place.folder.iterdir()] == [path.name]
    path.unlink()


plain = st.sampled_from(["u1", "u2", "u4", "i4", "i8", "f2", "f4", "f8", "?"])
metadata = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(['"csr_st.codes"', '"other"', "3", "{", "[" * 5000]),
        "version": st.sampled_from(["1", "0", "2", '"1"', "true", "null", "1e400", ""]),
        "hidden_dim": st.sampled_from(["9", "300", "0", "-1", "2.0", "true", "1" * 30, "[]"]),
        "checksum": st.sampled_from(['"0"', "null", "3"]),
        "more": st.text(max_size=5),
    },
)


@quick_and_thorough(
    st.dictionaries(
        st.sampled_from(["indices", "values", "norms", "vectors"]),
        plain.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=3, max_side=3))),
        min_size=1,
    ),
    metadata,
)
def test_another_safetensors_file_is_codes_or_is_refused(place, tensors, header):
    path = place.folder / "other.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, header)
    found = or_refused(lambda: SparseCodes.load(path), str(path))
    if found is not None:
        check_valid(found)
    path.unlink()


@quick_and_thorough(st.sampled_from(["manifest.json", "plan.json", "shard-000001.safetensors"]),
                    damage(900), st.booleans())  # fmt: skip
def test_a_damaged_store_gives_its_codes_or_is_refused(place, name, damaged, removed):
    files, codes = place.files, place.codes
    assume(name in files)
    path = place.folder / "store"
    path.mkdir(exist_ok=True)
    for each, content in files.items():
        (path / each).write_bytes(damaged(content) if each == name else content)
    if removed:
        os.unlink(path / name)

    def read():
        store = CodeStore.open(path)
        store.verify()
        return store.codes()

    found = or_refused(read, str(path))
    if found is not None:
        assert_same(found, codes)


json_values = st.recursive(anything, lambda more: st.dictionaries(st.text(max_size=3), more))


@quick_and_thorough(st.data())
def test_an_altered_manifest_is_refused_or_harmless(place, data):
    files, codes = place.files, place.codes
    manifest = json.loads(files["manifest.json"])
    part = data.draw(st.sampled_from([manifest, manifest["plan"], manifest["plan"]["recipe"]]))
    name = data.draw(st.sampled_from(sorted(part)))
    if data.draw(st.booleans()):
        del part[name]
    else:
        part[name] = data.draw(json_values)
    path = place.folder / "altered"
    path.mkdir(exist_ok=True)
    for each, content in files.items():
        (path / each).write_bytes(content)
    (path / "manifest.json").write_text(json.dumps(manifest))
    found = or_refused(lambda: CodeStore.open(path).codes(), str(path))
    if found is not None:
        np.testing.assert_array_equal(found.values, codes.values)
