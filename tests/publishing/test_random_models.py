"""Promise: any saved folder gives the right model, or an error that says what is wrong with it."""

from __future__ import annotations

import json
import struct
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseCSRHead
from csr_st.head import find_head

KEYS = [*SparseCSRHead.config_keys, "format_version", "colour"]
NUMBERS = (
    st.integers(-3, 70) | st.sampled_from([2**24, 2**31, 2**63, 10**30, -1]) | st.floats(width=64)
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]


@st.composite
def bytes_altered(draw, content):
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return content[: draw(st.integers(0, len(content)))]
    if kind == 1:
        return draw(st.binary(max_size=60))
    if kind == 2:
        length = draw(st.sampled_from([0, 1, 10**8, 2**31, 2**63, 2**64 - 1]))
        return struct.pack("<Q", length) + content[8:]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        changed[draw(st.integers(0, min(len(content) - 1, 400)))] = draw(st.integers(0, 255))
    return bytes(changed)


def alter_config(draw, path):
    if draw(st.integers(0, 3)) == 0:
        path.write_bytes(draw(bytes_altered(path.read_bytes())))
        return
    config = json.loads(path.read_text())
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2)):
        if draw(st.integers(0, 4)) == 0:
            config.pop(key, None)
        else:
            config[key] = draw(JSON)
    path.write_text(json.dumps(config))


def alter_weights(draw, path):
    kind = draw(st.integers(0, 5))
    if kind == 0:
        path.write_bytes(draw(bytes_altered(path.read_bytes())))
        return
    weights = load_file(path)
    name = draw(st.sampled_from(sorted(weights)))
    if kind == 1:
        del weights[name]
    elif kind == 2:
        weights[draw(st.sampled_from(["extra", "modality_bias", "short_maps"]))] = torch.ones(2)
    elif kind == 3:
        weights[name] = weights[name].to(draw(st.sampled_from(DTYPES)))
    elif kind == 4:
        weights[name] = torch.ones(draw(st.lists(st.integers(0, 5), max_size=3)))
    else:
        weights[name].view(-1)[0] = draw(st.sampled_from([float("nan"), float("-inf")]))
    save_file(weights, path)


def check(data):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown settings
        tied = data.draw(st.booleans())
        SparseCSRHead(3, 6, k=2, tied=tied).save(folder)
        if data.draw(st.booleans()):
            alter_config(data.draw, Path(folder, "config.json"))
        else:
            alter_weights(data.draw, Path(folder, "model.safetensors"))
        try:
            head = SparseCSRHead.load(folder)
        except (ValueError, TypeError) as error:
            message = str(error)
            assert len(message) > 20
            return
        assert head.encoder_weight.shape == (6, 3)
        values, indices = head.encode(torch.ones(2, 3))
        assert values.isfinite().all()
        assert indices.shape == (2, head.k)
        assert head.decode(values, indices).isfinite().all()


@given(st.data())
def test_any_head_loads_or_gives_a_clear_error(data):
    check(data)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.data())
def test_a_thousand_heads_load_or_give_a_clear_error(data):
    check(data)


@pytest.fixture
def hostile(model, tmp_path):
    csr_st.save(model, tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize(
    "content",
    [
        b"null", b"{}", b"[1]", b'[{"idx": 0}]', b"\xff", b"[" * 10**5,
        b'[{"idx": 0, "name": "0", "path": 3, "type": "csr_st.vectors.VectorInput"}]',
        b'[{"idx": 0, "name": "0", "path": "/etc", "type": "csr_st.head.SparseCSRHead"}]',
        b'[{"idx": 0, "name": "0", "path": ".saving-x", "type": "csr_st.head.SparseCSRHead"}]',
        b'[{"idx": 0, "name": "0", "path": "../../x/.saving-x", "type": "a.b"}]',
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["push {} org/x", "search index.csr cat --model {}"])
def test_any_modules_json_is_one_line(run, hostile, model, content, command):
    csr_st.SparseIndex.build(csr_st.encode(model, ["cat", "dog"], k=4)).save("index.csr")
    (hostile / "modules.json").write_bytes(content)
    code, _, err = run(*command.format(hostile).split())
    assert code == 1
    assert "unexpected" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "front",
    [
        "---\n: : : [\n---\n", "---\n- a\n---\n", "---\ntags: 3\n---\n", "---\n", "",
        "---\n!!python/object/apply:os.system ['x']\n---\n", "---\nlicense: {a: b}\n---\n",
        "---\ntags: csr\nbase_model: [1, 2]\nlanguage: 3\n---\n",
        "---\n" + "a: " * 2000 + "\n---\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("facts", [True, False])
def test_any_front_matter_is_kept_or_named(hostile, model, front, facts, tmp_path):
    text = (hostile / "README.md").read_text()
    (hostile / "README.md").write_text(front + text.split("---\n", 2)[2])
    if not facts:
        (hostile / "csr_card.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a card that is left as it is
        loaded = SentenceTransformer(str(hostile), device="cpu")
        csr_st.save(loaded, tmp_path / "again")
        csr_st.save(model, hostile, data="words")
    assert find_head(SentenceTransformer(str(tmp_path / "again"), device="cpu")).k == 8
    assert (hostile / "README.md").read_text().strip()


@pytest.mark.parametrize("facts", ["null", "[]", '{"model_id": 3}', "{" * 9000, "\ud800", "1e999"])
def test_any_facts_are_read_or_named(hostile, model, facts):
    (hostile / "csr_card.json").write_bytes(facts.encode("utf-8", "surrogatepass"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr_st.save(model, hostile)
        with pytest.raises((ValueError, ConnectionError)):  # the facts, or else no connection
            csr_st.push_to_hub(hostile, "org/x")


@pytest.mark.parametrize("times", [0, 2])
@pytest.mark.parametrize("marker", ["START", "END"])
def test_markers_that_are_missing_or_doubled_lose_no_words(hostile, model, marker, times):
    from csr_st.publishing import model_card

    line = getattr(model_card, marker)
    text = (hostile / "README.md").read_text() + "\nMy own words.\n"
    (hostile / "README.md").write_text(text.replace(line, "\n".join([line] * times)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        csr_st.save(model, hostile, data="more")
    assert "My own words." in (hostile / "README.md").read_text()
