"""Random changes and searches against a dense reference, and random files against `load`."""

import contextlib
import hashlib
import itertools
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.search import Decoder, SparseIndex

pytest.importorskip("numba")

REFUSALS = (ValueError, TypeError, FileNotFoundError)


def draw_codes(draw, n, k, hidden_dim):
    """Rows of any length, empty ones too, with equal values and equal rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    values = -np.sort(-rng.integers(0, levels + 1, size=(n, k)).astype(np.float32), axis=1)
    latents = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k]
    if n and draw(st.booleans()):
        latents[:] = latents[0]
    codes = SparseCodes(latents.astype(np.uint16), values, hidden_dim)
    return codes.normalize() if draw(st.booleans()) else codes


class Reference:
    """Documents as pairs of id and dense code, searched by a product."""

    def __init__(self, similarity):
        self.rows = []
        self.scored = SparseCodes.raw if similarity == "dot" else SparseCodes.normalize

    def add(self, codes, ids):
        self.rows += zip(ids, self.scored(codes), strict=True)

    def ids(self):
        return [name for name, _ in self.rows]

    def search(self, query, top_k, k, kept):
        scores, query = np.full(len(self.rows), -np.inf), self.scored(query)
        for place, (_, code) in enumerate(self.rows):
            if kept[place]:
                scores[place] = (code.prefix(k).to_dense() @ query.to_dense().T)[0, 0]
        order = np.argsort(-scores, kind="stable")[:top_k]
        return scores, scores[order]


def assert_found(found, reference, queries, top_k, k, kept):
    place_of = {name: place for place, name in enumerate(reference.ids())}
    for names, scores, query in zip(found.ids.tolist(), found.scores, queries, strict=True):
        all_scores, best = reference.search(query, top_k, k, kept)
        np.testing.assert_allclose(scores, best, atol=1e-5, rtol=1e-6)
        real = [place_of[name] for name in names if name not in (-1, None)]
        assert len(set(real)) == len(real) == min(top_k, sum(kept))
        np.testing.assert_allclose(scores[: len(real)], all_scores[real], atol=1e-5, rtol=1e-6)
        ranked = list(zip(scores.tolist(), real, strict=False))
        assert ranked == sorted(ranked, key=lambda hit: (-hit[0], hit[1]))


class Session:
    """An index and its reference, to which one action after the other is done."""

    def __init__(self, draw):
        self.draw = draw
        self.hidden_dim = draw(st.integers(1, 12))
        self.k = draw(st.integers(1, self.hidden_dim))
        self.as_text, self.step = draw(st.booleans()), draw(st.integers(1, 3))
        self.fresh = itertools.count()
        self.value_bits = draw(st.sampled_from([None, 4, 8]))
        self.similarity = draw(st.sampled_from(["cosine", "dot"]))
        self.reference = Reference(self.similarity)
        codes, ids = self.new_documents(12)
        self.index = SparseIndex.build(self.packed(codes), ids, similarity=self.similarity)
        self.reference.add(self.kept(codes), ids)

    def new_documents(self, most):
        codes = draw_codes(self.draw, self.draw(st.integers(0, most)), self.k, self.hidden_dim)
        codes = codes.raw() if self.similarity == "dot" else codes
        numbers = [self.step * next(self.fresh) for _ in range(len(codes))]
        return codes, [f"i{n}" for n in numbers] if self.as_text else numbers

    def packed(self, codes):
        return codes if self.value_bits is None else codes.pack(self.value_bits)

    def kept(self, codes):
        return codes if self.value_bits is None else self.packed(codes).unpack()

    def add(self):
        codes, ids = self.new_documents(6)
        self.index.add(self.packed(codes) if self.draw(st.booleans()) else codes, ids)
        self.reference.add(self.kept(codes), ids)

    def remove(self):
        names = self.reference.ids()
        gone = self.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        self.index.remove(gone)
        self.reference.rows = [row for row in self.reference.rows if row[0] not in gone]

    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.index"
            self.index.save(path)
            self.index = SparseIndex.load(path, verify=self.draw(st.booleans()))

    def pickle(self):
        self.index = pickle.loads(pickle.dumps(self.index))

    def refuse(self):
        bad = self.draw(st.sampled_from([[None], [1.5], ["\ud800"], [b"x"], [-1], 3, [[1]], "a"]))
        with pytest.raises(REFUSALS):
            self.index.add(draw_codes(self.draw, 1, self.k, self.hidden_dim), bad)
        with pytest.raises(REFUSALS):
            self.index.remove(bad)

    def search(self):
        draw, names = self.draw, self.reference.ids()
        queries = draw_codes(draw, draw(st.integers(0, 3)), self.hidden_dim, self.hidden_dim)
        queries = queries.raw() if self.similarity == "dot" else queries
        if not names:
            with pytest.raises(ValueError, match="empty"):
                self.index.search(queries, top_k=1)
            return
        top_k, k = draw(st.integers(1, len(names))), draw(st.integers(1, self.k))
        kept = np.array(draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
        chosen = [name for name, keep in zip(names, kept, strict=True) if keep]
        selected = draw(st.sampled_from([None, kept, kept.tolist(), chosen]))
        if selected is None:
            kept[:] = True
        threads = draw(st.integers(1, 3))
        found = self.index.search(queries, top_k, k=k, filter=selected, threads=threads)
        assert_found(found, self.reference, queries, top_k, k, kept)


def change_and_search(data):
    session = Session(data.draw)
    actions = ["add", "remove", "search", "save_and_load", "pickle", "refuse"]
    for action in [*data.draw(st.lists(st.sampled_from(actions), max_size=8)), "search"]:
        getattr(session, action)()
        assert session.index.ids.tolist() == session.reference.ids()


@given(st.data())
def test_changes_and_searches_equal_a_dense_reference(data):
    change_and_search(data)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.data())
def test_a_thousand_indexes_equal_a_dense_reference(data):
    change_and_search(data)


def content_of(index):
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "a.index")
        return (Path(folder) / "a.index").read_bytes()


def whole_files():
    rng = np.random.default_rng(0)
    values = -np.sort(-rng.random((5, 3)).astype(np.float32) - 0.01, axis=1)
    latents = np.argsort(rng.random((5, 9)), axis=1)[:, :3]
    codes = SparseCodes(latents.astype(np.uint16), values, 9).normalize()
    decoder = Decoder(
        rng.normal(size=(9, 4)), rng.normal(size=4), 0.5, {2: rng.normal(size=(4, 4))}
    )
    indexes = [
        SparseIndex.build(codes[:0]),
        SparseIndex.build(codes),
        SparseIndex.build(codes, ids=[9, 4, 7, 1, 2]),
        SparseIndex.build(codes, ids=["", "b", "ö", "d", "e"], decoder=decoder),
        SparseIndex.build(codes.pack(8)),
        SparseIndex.build(codes.pack(4)[:0]),
        SparseIndex.build(codes, words=["a b", "", "b b", "c", "d"], language=str.split),
        SparseIndex.build(words=["a b", "c"], language=str.split),
        SparseIndex.build(codes.raw(), similarity="dot"),
        SparseIndex.build(codes.raw().pack(8), similarity="dot"),
    ]
    return [content_of(index) for index in indexes]


FILES = whole_files()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.sampled_from(["", "U8", "F64", "BF16", "I64", "U16", "9", "csr_st.index", "x", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


def forged(draw, content):
    """A file with another header and other data, and a checksum that fits."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    for _ in range(draw(st.integers(0, 2))):
        place, key = header, draw(st.sampled_from(sorted(header)))
        if isinstance(header[key], dict) and header[key] and draw(st.booleans()):
            place, key = header[key], draw(st.sampled_from(sorted(header[key])))
        if isinstance(place[key], list) and place[key] and draw(st.booleans()):
            place, key = place[key], draw(st.integers(0, len(place[key]) - 1))
        if isinstance(place, dict) and draw(st.integers(0, 3)) == 0:
            del place[key]
        else:
            place[key] = draw(JSON)
        if not header:
            break
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        metadata.pop("sha256", None)
        layout = {"__metadata__": metadata, **{k: v for k, v in header.items()}}
        text = json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()
        metadata["sha256"] = hashlib.sha256(text + data).hexdigest()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class Refused(Exception):
    """An error of the kinds that are promised, which names the file."""


@contextlib.contextmanager
def naming(file):
    try:
        yield
    except REFUSALS as error:
        if file in str(error):
            raise Refused from error
        raise


def search_words(path, verify):
    """Search the words of a file that was opened once."""
    with contextlib.suppress(*REFUSALS), np.errstate(all="ignore"):
        index = SparseIndex.load(path, verify=verify, language=str.split)
        index.search(words=["a b d"], top_k=1, threads=1)


def load_anything(data):
    draw = data.draw
    content = draw(st.sampled_from(FILES))
    kind = draw(st.sampled_from(["forged", "cut", "altered", "spliced", "random", "missing"]))
    if kind == "forged":
        content = forged(draw, content)
    elif kind == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif kind == "altered":
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(max_size=9)) + content[place + 1 :]
    elif kind == "spliced":
        other = draw(st.sampled_from(FILES))
        content = content[: draw(st.integers(0, len(content)))] + other[-draw(st.integers(1, 99)) :]
    elif kind == "random":
        content = draw(st.binary(max_size=64))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.index"
        if kind != "missing":
            path.write_bytes(content)
        for verify in (True, False):
            index = None
            with contextlib.suppress(Refused), naming("any.index"):
                index = SparseIndex.load(path, verify=verify)
            if index is None:
                continue
            assert kind == "forged" or not verify or content in FILES
            search_words(path, verify)
            query = SparseCodes(
                np.arange(1)[None], np.ones((1, 1), np.float32), max(index.hidden_dim, 1)
            )
            if index.hidden_dim <= 2**16:  # a search takes memory for each latent
                # Of an unverified file; forged numbers may be finite but huge.
                with contextlib.suppress(*REFUSALS), np.errstate(all="ignore"):
                    index.search(query, top_k=1, threads=1)
                    dense = np.ones((1, 4))
                    index.search(query, top_k=1, rescore=2, queries_dense=dense, threads=1)
            repr(index), index.ids
        assert [item.name for item in Path(folder).iterdir()] in ([], ["any.index"])


@given(st.data())
def test_any_file_is_loaded_or_refused(data):
    load_anything(data)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.data())
def test_a_thousand_files_are_loaded_or_refused(data):
    load_anything(data)
