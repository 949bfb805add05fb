"""Images from data sets to vectors and codes: every mode, the corrupt ones, one batch at a time."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import tiny_clip
from PIL import Image
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.data import images
from csr_st.data import loading as data


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_clip.build(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clip(clip_folder):
    return SentenceTransformer(clip_folder, device="cpu")


def file_bytes(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(rng, mode="RGB"):
    channels = {"RGB": 3, "CMYK": 4, "RGBA": 4, "LA": 2}[mode]
    values = rng.integers(0, 256, (36, 40, channels), np.uint8)
    return Image.frombytes(mode, (40, 36), values.tobytes())


@pytest.fixture
def odd_images(rng):
    """A file of every mode, by name."""
    colour = noise(rng)
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "RGB": file_bytes(colour),
        "one channel": file_bytes(grey),
        "CMYK": file_bytes(noise(rng, mode="CMYK"), "JPEG"),
        "alpha": file_bytes(noise(rng, mode="RGBA")),
        "grey and alpha": file_bytes(noise(rng, mode="LA")),
        "palette": file_bytes(colour.convert("P")),
        "one bit": file_bytes(colour.convert("1")),
        "16 bit": file_bytes(deep),
    }


def rows_of(files, **columns):
    features = datasets.Features(
        {"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}}
    )
    content = [None if file is None else {"bytes": file, "path": None} for file in files]
    return datasets.Dataset.from_dict({"image": content, **columns}, features=features)


def test_every_mode_becomes_rgb(odd_images):
    for name, content in odd_images.items():
        picture = images.EncodedImage(content, None, 0, "image").decode()
        assert picture.mode == "RGB", name
        assert picture.size == (40, 36), name
    grey = images.EncodedImage(odd_images["one channel"], None, 0, "image").decode()
    deep = images.EncodedImage(odd_images["16 bit"], None, 0, "image").decode()
    np.testing.assert_array_equal(np.asarray(deep), np.asarray(grey))


def test_a_turned_photo_is_put_upright(rng):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    noise(rng).save(buffer, "JPEG", exif=exif)
    assert images.EncodedImage(buffer.getvalue(), None, 0, "image").decode().size == (36, 40)


def test_odd_images_give_the_vectors_of_their_rgb(clip, odd_images, tmp_path):
    rows = rows_of(odd_images.values())
    store = csr_st.EmbeddingStore.embed(clip, rows, tmp_path / "s", batch_size=3, dtype="float32")
    expected = [Image.open(io.BytesIO(content)).convert("RGB") for content in odd_images.values()]
    plain = clip.encode(expected[:7])
    np.testing.assert_allclose(store.vectors()[:7], plain, atol=1e-5)
    # Pictures that are decoded already are treated alike.
    opened = [Image.open(io.BytesIO(content)) for content in odd_images.values()]
    again = csr_st.EmbeddingStore.embed(clip, opened, tmp_path / "t", dtype="float32")
    np.testing.assert_allclose(again.vectors(), store.vectors(), atol=1e-5)


def test_only_one_batch_of_pixels_at_a_time(clip, rng, tmp_path, monkeypatch):
    rows = rows_of([file_bytes(noise(rng)) for _ in range(10)])
    most = [0]
    encode = type(clip).encode

    def watch(self, items, **options):
        most[0] = max(most[0], len(items))
        assert all(isinstance(item, Image.Image) for item in items)
        return encode(self, items, **options)

    monkeypatch.setattr(type(clip), "encode", watch)
    csr_st.EmbeddingStore.embed(clip, rows, tmp_path / "s", batch_size=4)
    assert most == [4]


def test_streams_of_images(clip, rng, tmp_path):
    rows = rows_of([file_bytes(noise(rng)) for _ in range(10)])
    whole = csr_st.EmbeddingStore.embed(clip, rows, tmp_path / "s", batch_size=4)
    stream = rows.to_iterable_dataset()
    streamed = csr_st.EmbeddingStore.embed(clip, stream, tmp_path / "t", batch_size=4)
    np.testing.assert_array_equal(streamed.vectors(), whole.vectors())


def test_a_corrupt_image_is_named_and_nothing_is_lost(clip, rng, tmp_path):
    files = [file_bytes(noise(rng)) for _ in range(8)]
    broken = [*files[:5], files[5][:200], *files[6:]]
    with pytest.raises(ValueError, match=r"entry 5 of column 'image' is not a readable image"):
        csr_st.EmbeddingStore.embed(
            clip, rows_of(broken), tmp_path / "s", shard_rows=2, batch_size=2
        )
    assert len(list((tmp_path / "s").glob("shard-*"))) == 2
    # After the fix the run goes on after the shards that were finished.
    for shard in (tmp_path / "s").glob("shard-*"):
        shard.chmod(0o444)
    store = csr_st.EmbeddingStore.embed(
        clip, rows_of(files), tmp_path / "s", shard_rows=2, batch_size=2
    )
    assert len(store) == 8


def test_bad_rows_can_be_left_out(rng, caplog):
    files = [file_bytes(noise(rng)) for _ in range(5)]
    files[1] = b"no image at all"
    files[2] = None
    texts = ["a", "b", "c", None, "e"]
    rows = data.without_bad(rows_of(files, caption=texts), ["image", "caption"])
    assert rows["caption"] == ["a", "e"]
    for words in (
        "3 of 5",
        "entry 1 of",
        "entry 2 of column 'image'",
        "entry 3 of column 'caption'",
    ):
        assert words in caplog.text
    assert data.without_bad(rows)["caption"] == ["a", "e"]
    with pytest.raises(ValueError, match="none of 1 rows"):
        data.without_bad(rows_of([b"x"]))
    with pytest.raises(ValueError, match="'picture' is not among"):
        data.without_bad(rows, ["picture"])


def test_missing_file_is_named(tmp_path):
    gone = images.EncodedImage(None, str(tmp_path / "gone.png"), 3, "photo")
    with pytest.raises(ValueError, match=r"entry 3 of column 'photo' .*gone\.png"):
        gone.decode()


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_command_line_from_images_to_codes(clip_folder, rng, run):
    files = [file_bytes(noise(rng)) for _ in range(60)]
    rows_of([*files, b"broken"]).save_to_disk("photos")
    options = ["--steps", 5, "--hidden-dim", 32, "--k", 4]
    code, _, err = run("train", clip_folder, "photos", "--output", "m", *options)
    assert code == 1
    assert "entry 60 of column 'image' is not a readable image" in err
    code, out, err = run("train", clip_folder, "photos", "--output", "n", *options, "--skip-bad")
    assert code == 0, err
    rows_of(files[:20]).save_to_disk("more")
    code, _, err = run("encode", "n", "more", "--output", "codes.safetensors", "--batch-size", 7)
    assert code == 0, err
    model = SentenceTransformer("n", device="cpu")
    pictures = [Image.open(io.BytesIO(content)) for content in files[:20]]
    dense = csr_st.SparseCodes.load("codes.safetensors").to_dense()
    np.testing.assert_allclose(dense, model.encode(pictures, k=4), atol=1e-5)
    code, out, err = run("evaluate", "n", "more", "--split", "train")
    assert code == 0, err
    assert "Recall@" in out


def test_images_in_a_parquet_file_are_images(rng, tmp_path):
    pictures = [noise(rng) for _ in range(3)]
    rows = datasets.Dataset.from_dict({"image": pictures, "caption": ["a", "b", "c"]})
    rows.to_parquet(tmp_path / "photos.parquet")
    found = data.load(tmp_path / "photos.parquet")
    items = data.column(found, "image")
    assert [item.decode().tobytes() for item in items] == [one.tobytes() for one in pictures]
    assert data.load(tmp_path / "photos.parquet")._fingerprint == found._fingerprint
    rows.to_parquet(tmp_path / "more.parquet")
    both = data.load(tmp_path / "*.parquet")
    assert [item.decode().size for item in data.column(both, "image")] == [(40, 36)] * 6
    sounds = rows.remove_columns("image").add_column("sound", [{"bytes": b"x", "path": None}] * 3)
    sounds.to_parquet(tmp_path / "sounds.parquet")
    assert data.item_column(data.load(tmp_path / "sounds.parquet").features) == "caption"
    with pytest.raises(ValueError, match="no column holds text or images"):
        data.column(data.load(tmp_path / "sounds.parquet").remove_columns("caption"), None)
