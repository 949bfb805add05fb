"""The saved head: what is written, that it reads back equal, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from csr_st import SparseCSRHead


def random_head(seed=0, input_dim=6, hidden_dim=24, **settings) -> SparseCSRHead:
    generator = torch.Generator().manual_seed(seed)
    head = SparseCSRHead(input_dim, hidden_dim, **{"k": 4, **settings})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head


@pytest.fixture
def folder(tmp_path) -> Path:
    """A saved head."""
    random_head().save(str(tmp_path))
    return tmp_path


def write_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 12),
    query_k=st.none() | st.integers(1, 12),
    normalize=st.booleans(),
    tied=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    short_ks=st.sampled_from([None, [1], [2, 12]]),
)
def test_loads_equal_to_what_was_saved(tmp_path_factory, seed, **settings):
    folder = tmp_path_factory.mktemp("head")
    head = random_head(seed, input_dim=3, hidden_dim=12, **settings)
    head.save(str(folder))
    loaded = SparseCSRHead.load(str(folder))
    assert loaded.get_config_dict() == head.get_config_dict()
    assert (loaded.decoder_weight is loaded.encoder_weight) == settings["tied"]
    for name, tensor in head.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert all(p.device.type == "cpu" for p in loaded.parameters())
    still = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert still == ({"short_maps"} if settings["short_ks"] else set())


def test_files_hold_the_format_and_the_trained_parameters_only(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "format_version": 1,
        "input_dim": 6,
        "hidden_dim": 24,
        "k": 4,
        "query_k": None,
        "normalize": True,
        "tied": False,
        "power": 1.0,
        "dtype": "float32",
    }
    shapes = {n: tuple(t.shape) for n, t in load_file(folder / "model.safetensors").items()}
    assert shapes == {
        "encoder_weight": (24, 6),
        "decoder_weight": (24, 6),
        "pre_bias": (6,),
        "latent_bias": (24,),
    }


def test_tied_weights_are_written_once(tmp_path):
    random_head(tied=True).save(str(tmp_path))
    assert "decoder_weight" not in load_file(tmp_path / "model.safetensors")


def test_settings_added_later_take_their_default(folder):
    config = json.loads((folder / "config.json").read_text())
    kept = {key: config[key] for key in ("input_dim", "hidden_dim", "k")}
    (folder / "config.json").write_text(json.dumps(kept))
    loaded = SparseCSRHead.load(str(folder))
    assert (loaded.query_k, loaded.normalize, loaded.tied) == (None, True, False)
    assert SparseCSRHead.load(str(folder), init_defaults={"normalize": False}).normalize is False


def test_saving_over_a_head_replaces_it_whole(folder):
    random_head(seed=9, k=7).save(str(folder))
    loaded = SparseCSRHead.load(str(folder))
    assert loaded.k == 7
    assert torch.equal(loaded.pre_bias, random_head(seed=9).pre_bias)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_save_that_fails_leaves_the_old_files(folder, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("csr_st._io.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        random_head(seed=9).save(str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_never_pickles(tmp_path):
    with pytest.raises(ValueError, match="safe_serialization=False would pickle the weights; csr"):
        random_head().save(str(tmp_path), safe_serialization=False)
    assert not list(tmp_path.iterdir())


def test_a_pickle_beside_no_weights_is_not_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model\.safetensors; download or save"):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}; download or save the model again"):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_weights_cut_short_are_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"is damaged or cut short .*; download or save the model"):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"input_dim": 7},
        {"hidden_dim": 25},
        {"tied": True},
        {"input_dim": 2**20, "hidden_dim": 2**24},  # 64 TiB a matrix, were it claimed
    ],
)
def test_shapes_that_lie_are_refused_before_memory_is_claimed(folder, change):
    write_config(folder, **change)
    with pytest.raises(ValueError, match=r"do not fit the config beside them: found .* expected"):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize("drop", ["pre_bias", "decoder_weight"])
def test_missing_weights_are_refused(folder, drop):
    weights = load_file(folder / "model.safetensors")
    del weights[drop]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"do not fit the config .* expected .*'{drop}'"):
        SparseCSRHead.load(str(folder))


def test_weights_that_do_not_belong_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit the config .*'extra'"):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize("version", [2, 99, "2", None])
def test_a_newer_format_is_refused(folder, version):
    write_config(folder, format_version=version)
    with pytest.raises(
        ValueError, match=f"format version {version!r}, this csr_st reads up to 1: pip install -U"
    ):
        SparseCSRHead.load(str(folder))


def test_an_unknown_setting_warns_and_is_left_out(folder):
    write_config(folder, colour="red")
    with pytest.warns(UserWarning, match=r"does not know and leaves out: \['colour'\]; pip inst"):
        loaded = SparseCSRHead.load(str(folder))
    assert torch.equal(loaded.encoder_weight, random_head().encoder_weight)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0 is below 1"),
        ({"k": 10**30}, ValueError, "exceeds hidden_dim=24"),
        ({"k": "4"}, TypeError, "k='4' is not an integer"),
        ({"k": None}, TypeError, "k=None is not an integer"),
        ({"query_k": [1]}, TypeError, r"query_k=\[1\] is not an integer"),
        ({"input_dim": 2**70}, ValueError, "exceeds the largest supported"),
        ({"input_dim": float("nan")}, TypeError, "input_dim=nan is not an integer"),
        ({"hidden_dim": "24"}, TypeError, "hidden_dim='24' is not an integer"),
        ({"hidden_dim": 2**40}, ValueError, "exceeds the largest supported"),
        ({"normalize": "false"}, TypeError, "normalize='false' must be True or False"),
        ({"dtype": {"a": 1}}, ValueError, "is not one of 'float32'"),
        ({"dtype": "os.system"}, ValueError, "dtype='os.system' is not one of 'float32'"),
    ],
)
def test_hostile_settings_are_refused(folder, change, error, message):
    write_config(folder, **change)
    with pytest.raises(error, match=message):
        SparseCSRHead.load(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "must contain a JSON dict, not list"),
        (b"{}", r"lacks \['hidden_dim', 'input_dim', 'k'\]"),
    ],
)
def test_a_config_that_is_none_is_refused(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SparseCSRHead.load(str(folder))


def test_a_lone_head_writes_nothing_outside_its_folder(tmp_path):
    (tmp_path / "head").mkdir()
    random_head().save(str(tmp_path / "head"))
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_inside_a_model_the_requirement_joins_those_of_others(tmp_path):
    settings = {"prompts": {"query": "é"}, "requirements": {"peft": ">=0.18"}}
    config = tmp_path / "config_sentence_transformers.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "1_SparseCSRHead").mkdir()
    random_head().save(str(tmp_path / "1_SparseCSRHead"))
    assert json.loads(config.read_text(encoding="utf-8")) == {
        "prompts": {"query": "é"},
        "requirements": {"peft": ">=0.18", "csr-st": ">=0.1"},
    }
