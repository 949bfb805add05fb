"""Conversions against sentence-transformers' own autoencoder and hand-written foreign weights."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

import csr_st
from csr_st import SparseCSRHead
from csr_st.convert import (
    from_native,
    head_from_checkpoint,
    head_from_compressae,
    head_from_file,
    head_from_native,
    losses_of_native,
    to_native,
)
from csr_st.convert.checkpoints import head_of

KS = (1, 4, 8, 33, 64)


def randomize(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def sparse(backbone, **settings) -> SentenceTransformer:
    return csr_st.attach(backbone, randomize(SparseCSRHead(16, **{"k": 8, **settings})))


def dense(rows) -> np.ndarray:
    return rows.to_dense().numpy() if isinstance(rows, torch.Tensor) else rows


@pytest.mark.parametrize("kind", [SentenceTransformer, SparseEncoder])
@pytest.mark.parametrize("tied", [True, False])
def test_native_codes_are_bit_equal_at_every_k(backbone, texts, tmp_path, kind, tied):
    model = sparse(backbone, normalize=False, tied=tied)
    to_native(model, tmp_path / "native", kind.__name__)
    native = kind(str(tmp_path / "native"), device="cpu")
    for k in KS:
        found = dense(native.encode(texts, max_active_dims=k))
        assert (found == model.encode(texts, k=k)).all()
    assert (dense(native.encode(texts)) == model.encode(texts)).all()  # the default k too


def test_native_codes_of_a_head_with_a_power_are_those_without_it(backbone, texts, tmp_path):
    model = sparse(backbone, normalize=False, power=0.5)
    lost = to_native(model, tmp_path / "native")
    assert any(line.startswith("power=0.5:") for line in lost)
    native = SentenceTransformer(str(tmp_path / "native"), device="cpu")
    magnitudes = dense(native.encode(texts, max_active_dims=4))
    assert (magnitudes > 0).any()
    np.testing.assert_allclose(np.sqrt(magnitudes), model.encode(texts, k=4), rtol=1e-6)


@pytest.mark.parametrize("kind", [SentenceTransformer, SparseEncoder])
def test_native_codes_keep_unit_norm_and_prompts(backbone, texts, tmp_path, kind):
    model = sparse(backbone)
    to_native(model, tmp_path / "native", kind.__name__)
    native = kind(str(tmp_path / "native"), device="cpu")
    for k in KS:
        found = dense(native.encode_query(texts, max_active_dims=k))
        assert np.allclose(found, model.encode_query(texts, k=k), atol=1e-6)
    assert native.similarity_fn_name == "dot"
    assert native.prompts["query"] == "the red "


def test_native_model_loads_without_this_package(backbone, texts, tmp_path):
    model = sparse(backbone, normalize=False)
    to_native(model, tmp_path / "native")
    script = (
        "import sys, numpy as np\n"
        "sys.modules['csr_st'] = None\n"  # importing it would fail
        "from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "np.save(sys.argv[2], model.encode(sys.argv[3:], max_active_dims=8))\n"
    )
    out = tmp_path / "codes.npy"
    command = [sys.executable, "-c", script, str(tmp_path / "native"), str(out), *texts]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    # Another process may round otherwise in the last digit.
    np.testing.assert_allclose(np.load(out), model.encode(texts, k=8), atol=1e-6)


@pytest.mark.parametrize("kind", ["SentenceTransformer", "SparseEncoder"])
@pytest.mark.parametrize("normalize", [True, False])
def test_to_native_and_back_changes_nothing_of_a_tied_head(
    backbone, texts, tmp_path, kind, normalize
):
    model = sparse(backbone, normalize=normalize, tied=True)
    to_native(model, tmp_path / "native", kind)
    back = from_native(tmp_path / "native", device="cpu")
    before, after = csr_st.find_head(model), csr_st.find_head(back)
    assert after.get_config_dict() == before.get_config_dict()
    weights = dict(before.named_parameters())
    assert all((weights[name] == tensor).all() for name, tensor in after.named_parameters())
    assert (back.encode(texts, k=5) == model.encode(texts, k=5)).all()
    assert back.similarity_fn_name == model.similarity_fn_name


def test_what_is_lost_is_said_in_the_result_and_on_the_card(backbone, tmp_path):
    model = sparse(backbone, tied=False, query_k=20)
    lost = to_native(model, tmp_path / "native")
    assert lost == losses_of_native(csr_st.find_head(model))
    for word in ("max_active_dims", "decoder", "query_k=20", "magnitudes", "half-precision"):
        assert any(word in sentence for sentence in lost)
    card = ModelCard.load(tmp_path / "native" / "README.md")
    assert all(sentence in card.text for sentence in lost)
    assert card.data.library_name == "sentence-transformers"


def test_only_a_tied_head_without_maps_loses_nothing_of_its_decoder():
    assert not any("decoder" in s for s in losses_of_native(SparseCSRHead(16, tied=True)))
    lost = losses_of_native(SparseCSRHead(16, tied=True, short_ks=[2]))
    assert any("decoder's maps of short codes, up to k=2" in sentence for sentence in lost)


def test_native_folder_is_complete_or_absent(backbone, tmp_path, monkeypatch):
    model = sparse(backbone)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SparseAutoEncoder, "save", full)
    with pytest.raises(OSError, match="No space"):
        to_native(model, tmp_path / "native")
    assert list(tmp_path.iterdir()) == []


def test_to_native_refuses(backbone, model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="not empty"):
        to_native(model, tmp_path / "full")
    with pytest.raises(ValueError, match="no head to convert"):
        to_native(backbone, tmp_path / "new")
    with pytest.raises(ValueError, match="'CrossEncoder' must be one of"):
        to_native(model, tmp_path / "new", "CrossEncoder")
    half = csr_st.attach(backbone, SparseCSRHead(16, k=8, dtype="bfloat16"))
    with pytest.raises(ValueError, match="dtype='float32'"):
        to_native(half, tmp_path / "new")


def native_model(backbone, **settings) -> SparseEncoder:
    """As sentence-transformers trains them: random weights, statistics not at zero."""
    autoencoder = randomize(SparseAutoEncoder(16, 64, k=8, k_aux=16, **settings))
    autoencoder.stats_last_nonzero += 7
    return SparseEncoder(modules=[*backbone.children(), autoencoder], device="cpu")


def test_a_sparse_encoder_folder_becomes_a_head(backbone, texts, tmp_path):
    native = native_model(backbone)
    native.save(str(tmp_path / "native"), create_model_card=False)
    model = from_native(str(tmp_path / "native"), device="cpu")
    for k in KS:
        wanted = dense(native.encode(texts, max_active_dims=k))
        assert (model.encode(texts, k=k) == wanted).all()
    assert csr_st.find_head(model).k == 8
    codes = csr_st.encode(model, texts, k=4)
    assert (codes.to_dense() == dense(native.encode(texts, max_active_dims=4))).all()


def test_reconstructions_are_the_native_ones():
    native = randomize(SparseAutoEncoder(16, 64, k=8, k_aux=16))
    head = head_from_native(native)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    wanted = native.eval()({"sentence_embedding": x})["decoded_embedding_k"]
    assert torch.allclose(head.decode(*head.encode(x)), wanted, atol=1e-4)


def test_standardised_input_cannot_be_converted():
    with pytest.raises(ValueError, match="standardises"):
        head_from_native(SparseAutoEncoder(16, 64, k=8, normalize=True))


def test_wrong_native_settings_are_refused_before_memory_is_allocated(backbone, tmp_path):
    native_model(backbone).save(str(tmp_path / "native"), create_model_card=False)
    config = tmp_path / "native" / "1_SparseAutoEncoder" / "config.json"
    settings = json.loads(config.read_text())
    for key, value in (("hidden_dim", 2**40), ("k", 65), ("k", 0)):
        config.write_text(json.dumps({**settings, key: value}))
        with pytest.raises(ValueError, match=str(value)):
            from_native(tmp_path / "native")


def test_paths_outside_the_model_are_refused(backbone, tmp_path):
    native_model(backbone).save(str(tmp_path / "native"), create_model_card=False)
    modules = tmp_path / "native" / "modules.json"
    modules.write_text(modules.read_text().replace("1_SparseAutoEncoder", "../elsewhere"))
    with pytest.raises(ValueError, match="outside the model"):
        head_from_native(tmp_path / "native")


def test_folders_without_an_autoencoder_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="0 SparseAutoEncoder"):
        from_native(saved)
    with pytest.raises(ValueError, match="no modules"):
        head_from_native(tmp_path)


def authors_state(h=64, d=16) -> dict[str, torch.Tensor]:
    """The names of the authors' ``CSR`` class, with its tied decoder and its statistics."""
    generator = torch.Generator().manual_seed(4)
    encoder = torch.randn(h, d, generator=generator)
    return {
        "pre_bias": torch.randn(d, generator=generator),
        "latent_bias": torch.randn(h, generator=generator),
        "stats_last_nonzero": torch.arange(h),
        "encoder.weight": encoder,
        "decoder.linear.weight": encoder,
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_authors_checkpoint(tmp_path, prefix):
    state = authors_state()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    torch.save(
        {
            "epoch": 10,
            "state_dict": {prefix + name: tensor for name, tensor in state.items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": {"step_size": 10},
        },
        tmp_path / "csr.pth",
    )
    head = head_from_checkpoint(tmp_path / "csr.pth", k=8)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    # z = ReLU(TopK(W (x - b_pre) + b_latent)), by hand with numpy
    pre = (x - state["pre_bias"]).numpy() @ state["encoder.weight"].numpy().T
    pre += state["latent_bias"].numpy()
    wanted = np.where(pre >= np.sort(pre, axis=1)[:, -8:-7], np.maximum(pre, 0), 0)
    found = head({"sentence_embedding": x})["sentence_embedding"].detach().numpy()
    assert np.allclose(found, wanted, atol=1e-5)
    assert (head.tied, head.normalize, head.k) == (True, False, 8)


def test_authors_safetensors(tmp_path):
    state = authors_state()
    del state["decoder.linear.weight"]
    save_file(state, tmp_path / "csr.safetensors")
    head = head_from_checkpoint(tmp_path / "csr.safetensors", k=4, normalize=True)
    assert torch.equal(head.encoder_weight, state["encoder.weight"])
    assert head.normalize


class Planted:
    """Unpickled by a careless loader, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_that_carries_code_is_refused_and_nothing_runs(tmp_path):
    torch.save(
        {"state_dict": authors_state(), "x": Planted(str(tmp_path / "ran"))}, tmp_path / "a.pth"
    )
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Planted(str(tmp_path / "ran"))))
    (tmp_path / "c.pth").write_bytes(b"no checkpoint")
    for name in ("a.pth", "b.pth", "c.pth"):
        with pytest.raises(ValueError, match="more than tensors"):
            head_from_checkpoint(tmp_path / name, k=8)
    assert not (tmp_path / "ran").exists()


def test_old_torch_may_not_read_pth(tmp_path, monkeypatch):
    torch.save(authors_state(), tmp_path / "csr.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(ImportError, match=r"torch>=2\.6"):
        head_from_checkpoint(tmp_path / "csr.pth", k=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_bias": torch.zeros(63)}, r"latent_bias has shape \(63,\)"),
        ({"pre_bias": torch.zeros(64)}, r"pre_bias has shape \(64,\)"),
        ({"encoder.weight": torch.zeros(64)}, r"not \(h, d\)"),
        ({"pre_bias": torch.full((16,), torch.nan)}, "NaN"),
        ({"decoder.linear.weight": torch.zeros(64, 16)}, "not tied"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, change, message):
    torch.save({**authors_state(), **change}, tmp_path / "csr.pth")
    with pytest.raises(ValueError, match=message):
        head_from_checkpoint(tmp_path / "csr.pth", k=8)


def test_checkpoint_without_the_tensors_names_what_it_has(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"no tensor 'encoder.weight', only \['fc.weight'\]"):
        head_from_checkpoint(tmp_path / "other.pth", k=8)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        head_from_checkpoint(tmp_path / "none.pth", k=8)
    torch.save(authors_state(), tmp_path / "csr.pth")
    with pytest.raises(ValueError, match="k=65 exceeds hidden_dim=64"):
        head_from_checkpoint(tmp_path / "csr.pth", k=65)


def compressae_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return {
        "encoder_w": torch.randn(16, 32, generator=generator),
        "encoder_b": torch.randn(32, generator=generator) / 4,
        "decoder_w": torch.randn(32, 16, generator=generator),
    }


@pytest.mark.parametrize("k", [1, 5, 32])
def test_compressae_latents_magnitudes_and_reconstructions(k):
    state = compressae_state()
    x = torch.nn.functional.normalize(
        torch.randn(7, 16, generator=torch.Generator().manual_seed(2)), dim=1
    )
    # the k largest magnitudes, signs kept; reconstruction e W_dec: equations of arXiv 2505.11388
    pre = (x @ state["encoder_w"] + state["encoder_b"]).numpy()
    kept = np.abs(pre) >= np.sort(np.abs(pre), axis=1)[:, [-k]]
    signed = np.where(kept, pre, 0)
    head = head_from_compressae(state, k=k, normalize=False)
    found = head({"sentence_embedding": x})["sentence_embedding"].detach().numpy()
    assert np.allclose(found[:, :32] - found[:, 32:], signed, atol=1e-5)
    assert ((found > 0).sum(axis=1) == k).all()
    rebuilt = head.decode(*head.encode(x)).detach().numpy()
    assert np.allclose(rebuilt, signed @ state["decoder_w"].numpy(), atol=1e-4)


def test_the_type_of_a_file_is_recognised_by_its_tensors(tmp_path):
    save_file(compressae_state(), tmp_path / "sae.safetensors")
    assert head_from_file(tmp_path / "sae.safetensors", k=3).hidden_dim == 64
    theirs, state = tmp_path / "csr.safetensors", authors_state()
    del state["decoder.linear.weight"]
    save_file(state, theirs)
    one, other = head_from_file(theirs, 3), head_from_checkpoint(theirs, 3)
    assert torch.equal(one.encoder_weight, other.encoder_weight)
    assert one.get_config_dict() == other.get_config_dict()


def test_compressae_file(tmp_path):
    save_file(compressae_state(), tmp_path / "sae.safetensors")
    head = head_from_compressae(tmp_path / "sae.safetensors", k=3)
    assert (head.input_dim, head.hidden_dim, head.k) == (16, 64, 3)
    with pytest.raises(ValueError, match="use head_from_checkpoint"):
        head_from_compressae(authors_state(), k=3)
    with pytest.raises(ValueError, match=r"must be \(d, h\)"):
        head_from_compressae({**compressae_state(), "decoder_w": torch.zeros(16, 32)}, k=3)


def test_converted_heads_are_saved_as_ours(tmp_path):
    torch.save(authors_state(), tmp_path / "csr.pth")
    head = head_from_checkpoint(tmp_path / "csr.pth", k=8)
    (tmp_path / "head").mkdir()
    head.save(str(tmp_path / "head"))
    assert "decoder_weight" not in load_file(tmp_path / "head" / "model.safetensors")
    again = SparseCSRHead.load(str(tmp_path / "head"))
    assert torch.equal(again.encoder_weight, head.encoder_weight)


def test_a_decoder_of_complex_numbers_is_refused():
    encoder = torch.randn(8, 4)
    weights = {
        "encoder.weight": encoder,
        "pre_bias": torch.zeros(4),
        "latent_bias": torch.zeros(8),
        "decoder.linear.weight": encoder.to(torch.complex64),
    }
    with pytest.raises(ValueError, match=r"decoder\.linear\.weight is a tensor of complex64"):
        head_of(weights, 2, "these weights", normalize=False)
