"""One head for two modalities: its means, its files, its training, and CLIP from end to end."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
import tiny_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import csr_st
import csr_st.convert
from csr_st.data import loading as data
from csr_st.embeddings.joining import joined
from csr_st.evaluation.cross_modal import shift_of
from csr_st.training.objective import Batch, Objective, Step

TINY = {"steps": 200, "hidden_dim": 64, "k": 8, "ks": (4, 8), "batch_size": 128}
FACTORS = 12  # fewer than the 16 dimensions: each view determines all of them


def views(n, seed=0):
    """Two views of the same factors, 3 active in a row, each through axes of its own and moved."""
    rng = np.random.default_rng(seed)
    maps = [np.linalg.qr(rng.normal(size=(16, FACTORS)))[0].T for _ in range(2)]
    gaps = 4 * rng.normal(size=(2, 16))
    factors = np.zeros((n, FACTORS))
    active = np.argsort(rng.random((n, FACTORS)), axis=1)[:, :3]
    np.put_along_axis(factors, active, rng.random((n, 3)) + 0.5, axis=1)
    return {
        name: (factors @ maps[i] + gaps[i]).astype(np.float32)
        for i, name in enumerate(("image", "text"))
    }


def stores(sides, n):
    return {name: csr_st.EmbeddingStore.from_array(v[:n]) for name, v in sides.items()}


@pytest.fixture
def sided(head):
    """A head with a mean for each modality."""
    settings = {**head.get_config_dict(), "modalities": ["image", "text"]}
    made = csr_st.SparseCSRHead(**settings)
    with torch.no_grad():
        made.modality_bias.normal_(generator=torch.Generator().manual_seed(3))
    return made


def test_a_modality_s_mean_is_taken_out_and_put_back(sided):
    x = torch.randn(5, 16)
    shift = sided.modality_bias[1]
    code = sided.encode(x, 8, "text")
    moved = sided.encode(x - shift, 8)
    torch.testing.assert_close(code.values, moved.values)
    assert torch.equal(code.indices, moved.indices)
    torch.testing.assert_close(sided.decode(*code, "text"), sided.decode(*moved) + shift)
    assert not torch.equal(sided.encode(x, 8, "image").indices, code.indices)
    # A modality without a mean of its own has the common one.
    assert torch.equal(sided.encode(x, 8, "audio").indices, sided.encode(x, 8).indices)


def test_features_tell_the_modality(sided):
    x = torch.randn(5, 16)
    given = sided({"sentence_embedding": x, "modality": "image"}, k=4)["sentence_embedding"]
    code = sided.encode(x, 4, "image")
    expected = torch.zeros(5, 64).scatter(1, code.indices, code.values)
    torch.testing.assert_close(given, torch.nn.functional.normalize(expected, dim=1))


def test_files_with_and_without_modalities(sided, head, tmp_path):
    for name, made in (("with", sided), ("without", head)):
        (tmp_path / name).mkdir()
        made.save(str(tmp_path / name))
    config = json.loads((tmp_path / "with/config.json").read_text())
    assert config["modalities"] == ["image", "text"]
    assert load_file(tmp_path / "with/model.safetensors")["modality_bias"].shape == (2, 16)
    assert "modalities" not in json.loads((tmp_path / "without/config.json").read_text())
    assert "modality_bias" not in load_file(tmp_path / "without/model.safetensors")
    loaded = csr_st.SparseCSRHead.load(str(tmp_path / "with"))
    assert torch.equal(loaded.modality_bias, sided.modality_bias)
    for wrong in ("text", [], ["text", "text"], [1]):
        with pytest.raises(ValueError, match="modalities="):
            csr_st.SparseCSRHead(16, modalities=wrong)


def test_no_native_layout_for_several_means(backbone, sided, tmp_path):
    with pytest.raises(ValueError, match="means of its own for image, text"):
        csr_st.convert.to_native(csr_st.attach(backbone, sided), tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_joined_stores_share_a_mean():
    sides = views(300)
    store, shifts = joined(list(stores(sides, 300).values()))
    rows = store.vectors()
    np.testing.assert_allclose(rows[:300].mean(axis=0), rows[300:].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(rows[300:] + shifts[1], sides["text"], atol=1e-5)
    mixed = np.array([599, 0, 300, 5])
    np.testing.assert_array_equal(store.rows(mixed), rows[mixed])
    assert store.pairs.tolist()[7] == [7, 307]
    other, _ = joined(list(stores({**sides, "text": sides["text"][::-1]}, 300).values()))
    assert store.fingerprint() != other.fingerprint()


def test_uneven_sides_are_refused():
    sides = views(20)
    with pytest.raises(ValueError, match="20 and 19 rows; row i of one must belong to row i"):
        joined([csr_st.EmbeddingStore.from_array(x) for x in (sides["image"], sides["text"][1:])])
    with pytest.raises(ValueError, match="widths 16 and 15"):
        joined(
            [csr_st.EmbeddingStore.from_array(x) for x in (sides["image"], sides["text"][:, 1:])]
        )
    with pytest.raises(ValueError, match="1 sides; pairs have two"):
        joined([csr_st.EmbeddingStore.from_array(sides["image"])])
    head = csr_st.SparseCSRHead(16, 32, k=4)
    with pytest.raises(ValueError, match="'image': 20, 'text': 19}; two of equal length"):
        csr_st.evaluate_pairs(head, {**sides, "text": sides["text"][1:]})
    with pytest.raises(ValueError, match="'image': 20}; two of equal length"):
        csr_st.evaluate_pairs(head, {"image": sides["image"]})


def objective(**settings):
    head = csr_st.SparseCSRHead(2, 3, k=1)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]))
        head.decoder_weight.copy_(head.encoder_weight)
    return Objective(head, csr_st.recipe(steps=1, ks=(1,), k=1, aux_weight=0, **settings), 2.0)


def test_shared_support_by_hand():
    """Each half is rebuilt from the other's one latent, here latent 0 against latent 1.

    (3, 1) from latent 1 alone is (0, 1): squared error 9; (1, 2) from latent 0 is (1, 0): 4.
    Their mean over the variance of 2 is (9 + 4) / 2 / 2.
    """
    made = objective(support_weight=1.0)
    a, b = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    step = Step(0, torch.zeros(3, dtype=torch.bool), torch.Generator())
    terms = made(Batch(torch.cat([a, b]), anchors=a, positives=b), step).terms
    torch.testing.assert_close(terms["support"].item(), 13 / 4)
    terms["support"].backward()
    assert (made.head.decoder_weight.grad.abs().sum(dim=1) > 0).tolist() == [True, True, False]
    assert (
        "support" not in objective()(Batch(torch.cat([a, b]), anchors=a, positives=b), step).terms
    )


def test_pairs_are_contrasted_both_ways():
    """With shared support, swapping the halves changes nothing; without, it does."""
    torch.manual_seed(0)
    a, b = torch.rand(6, 2), torch.rand(6, 2)
    step = Step(0, torch.zeros(3, dtype=torch.bool), torch.Generator())

    def pairs(first, second, **settings):
        batch = Batch(torch.cat([a, b]), anchors=first, positives=second)
        return objective(**settings)(batch, step).terms["pairs"].item()

    both = pairs(a, b, support_weight=0.5)
    assert both == pytest.approx(pairs(b, a, support_weight=0.5))
    assert both == pytest.approx((pairs(a, b) + pairs(b, a)) / 2)


@pytest.fixture(scope="module")
def trained():
    sides = views(2400)
    known = stores(sides, 2000)
    held_out = {name: v[2000:] for name, v in sides.items()}
    reports = {}
    for weight in (0.0, 1.0):
        config = csr_st.recipe(**TINY, support_weight=weight / 2, pair_weight=weight)
        result = csr_st.train_pairs(known, config, show_progress=False)
        reports[weight] = (
            result.head,
            csr_st.evaluate_pairs(result.head, held_out, ks=(4, 8)),
        )
    return sides, reports


def test_pair_terms_find_the_partner(trained):
    sides, reports = trained
    alone, paired = reports[0.0][1], reports[1.0][1]
    for direction in ("image to text", "text to image"):
        # By chance 5 of 400; without the terms codes of one view say nothing of the other's.
        assert paired.recall[direction][5][8] > alone.recall[direction][5][8] + 0.3
    head = reports[1.0][0]
    active = []
    for name, vectors in sides.items():  # the same, from the head itself
        code = head.encode(torch.from_numpy(vectors[2000:]), 8, name)
        active.append(set(code.indices[code.values > 0].tolist()))
        assert paired.dead_fraction[name][8] == pytest.approx(1 - len(active[-1]) / 64)
    expected = len(active[0] ^ active[1]) / len(active[0] | active[1])
    assert paired.one_sided[8] == pytest.approx(expected)
    for line in (
        "image to text, recall@1",
        "text: unexplained variance (FVU)",
        "used by one side only",
    ):
        assert line in paired.table()


def test_each_side_has_its_own_mean(trained):
    sides, reports = trained
    head, report = reports[1.0]
    assert head.modalities == ["image", "text"]
    means = np.stack([v[:2000].mean(axis=0) for v in sides.values()])
    shifts = head.modality_bias.detach().numpy()
    np.testing.assert_allclose(shifts[1] - shifts[0], means[1] - means[0], atol=1e-4)
    for name, vectors in sides.items():  # the report's fvu, from the head itself
        x = torch.from_numpy(vectors[2000:])
        missed = (x - head.decode(*head.encode(x, 8, name), name)).square().sum()
        total = (x - x.mean(dim=0)).square().sum()
        assert report.fvu[name][8] == pytest.approx((missed / total).item(), rel=1e-3)


def test_rescoring_across_modalities_takes_the_query_s_own_mean_out():
    """In one dense space with a gap, as CLIP's: the decoder rebuilds about the common mean."""
    rng = np.random.default_rng(0)
    content = views(1500)["image"]
    gap = 3 * rng.normal(size=16)
    noise = 0.05 * rng.normal(size=content.shape)
    sides = {"image": content, "text": (content + noise + gap).astype(np.float32)}
    config = csr_st.recipe(**TINY, support_weight=0.5)
    head = csr_st.train_pairs(stores(sides, 1200), config, show_progress=False).head
    images, texts = (torch.from_numpy(v[1200:]) for v in sides.values())
    documents = to_codes(head, images, 4, "image")
    index = csr_st.SparseIndex.build(documents, decoder=csr_st.Decoder.from_head(head))
    recall = {}
    for name, shift in (("moved", shift_of(head, "text")), ("left", 0.0)):
        queries = texts.numpy() - shift
        hits = index.search(
            to_codes(head, texts, 4, "text"), top_k=1, rescore=100, queries_dense=queries
        )
        recall[name] = (hits.ids[:, 0] == np.arange(300)).mean()
    assert recall["moved"] > recall["left"] + 0.2


def to_codes(head, vectors, k, modality):
    with torch.no_grad():
        code = head.encode(vectors, k, modality)
    return csr_st.SparseCodes(code.indices.numpy(), code.values.numpy(), head.hidden_dim)


@pytest.fixture(scope="module")
def captioned():
    """Squares of a colour with captions, 60 of them."""
    rng = np.random.default_rng(0)
    names, files = [], []
    for number in range(60):
        colour = tiny_clip.COLOURS[number % 6]
        size = tuple(rng.integers(32, 60, 2).tolist())
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        names.append(f"a photo of {colour}")
        files.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": files, "caption": names}, features=features)


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_clip_from_end_to_end(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    clip = SentenceTransformer(tiny_clip.build(tmp_path / "clip"), device="cpu")
    config = csr_st.recipe(steps=10, hidden_dim=48, k=8, ks=(4, 8), support_weight=0.5)
    done = csr_st.train_model(
        clip, captioned, tmp_path / "m", config, pair_columns=("image", "caption")
    )
    head = csr_st.find_head(done.model)
    assert head.modalities == ["image", "text"]
    model = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    pictures, captions = list(captioned["image"])[:6], captioned["caption"][:6]
    images, texts = model.encode(pictures, k=4), model.encode(captions, k=4)
    assert model.similarity(images, texts).shape == (6, 6)
    dense = torch.from_numpy(clip.encode(captions))
    code = head.encode(dense, 4, "text")
    expected = torch.zeros(6, 48).scatter(1, code.indices, code.values)
    expected = torch.nn.functional.normalize(expected, dim=1).detach().numpy()
    np.testing.assert_allclose(texts, expected, atol=1e-5)
    index = csr_st.SparseIndex.build(csr_st.encode(model, pictures, k=4))
    hits = index.search(csr_st.encode(model, captions, k=8), top_k=3)
    assert hits.ids.shape == (6, 3)
    card = (tmp_path / "m/README.md").read_text()
    assert "a red square" in card
    assert "latents used by one side only" in (tmp_path / "m/two_sided.md").read_text()


def picture_file(mode):
    buffer = io.BytesIO()
    Image.new(mode, (40, 36)).save(buffer, "JPEG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_bad_pairs_are_named_and_the_rest_goes_on(run, captioned, tmp_path, caplog):
    tiny_clip.build(tmp_path / "clip")
    files = captioned.cast_column("image", datasets.Image(decode=False))["image"]
    files, captions = list(files), list(captioned["caption"])
    files[5], files[6] = picture_file("L"), picture_file("CMYK")

    def save(name, files, captions):
        columns = {"image": files, "caption": captions}
        datasets.Dataset.from_dict(columns, captioned.features).save_to_disk(name)

    def train(name, *more):
        options = ("--pairs", "image,caption", "--steps", 5, "--hidden-dim", 32, "--k", 4)
        return run("train", "clip", name, "--output", f"{name}-csr", *options, *more)

    broken = [*files[:7], {"bytes": b"no image at all", "path": None}, *files[8:]]
    gone = [*captions[:9], None, *captions[10:]]
    save("corrupt", broken, captions)
    save("missing", files, gone)
    save("both", broken, gone)
    code, _, err = train("corrupt")
    assert code == 1
    assert "entry 7 of column 'image' is not a readable image" in err
    assert "--skip-bad" in err
    code, _, err = train("missing")
    assert code == 1
    assert "entry 9 of column 'caption' is None; drop or fill" in err
    code, out, err = train("both", "--skip-bad")
    assert code == 0, err
    assert "2 of 60 rows are left out" in caplog.text
    assert "entry 7 of column 'image'" in caplog.text
    assert "entry 9 of column 'caption' is missing" in caplog.text
    assert "| image to text, recall@1 |" in out
    store = csr_st.EmbeddingStore.open(tmp_path / "both-csr" / "vectors" / "image")
    assert len(store) == 58


def test_a_pair_file_of_uneven_length_is_refused_or_skipped(backbone, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("anchor,positive\nthe cat,a cat\nthe dog\nred fish,a fish\n")
    rows = data.load(str(path))
    columns = ("anchor", "positive")
    with pytest.raises(ValueError, match=r"entry 1 of column 'positive' is None.*must be even"):
        csr_st.EmbeddingStore.embed(backbone, rows, tmp_path / "s", pair_columns=columns)
    rest = data.without_bad(rows, columns)
    store = csr_st.EmbeddingStore.embed(backbone, rest, tmp_path / "t", pair_columns=columns)
    assert store.pairs.tolist() == [[0, 1], [2, 3]]
    path.write_text("anchor,positive\nthe cat,a cat\nthe dog,a dog,one too many\n")
    with pytest.raises(ValueError, match=r"cannot be read as .csv.*line 3"):
        data.load(str(path))
