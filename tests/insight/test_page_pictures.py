"""Pages of images: small pictures within a number of bytes, those first that matter most."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from browser import Watched, chromium, until
from insight.test_page import content_of, nameless
from PIL import Image
from topics import TOPICS, topic_texts

from csr_st import SparseCodes, name_latents
from csr_st.data.images import EncodedImage
from csr_st.insight.page import Corpus, content, thumbnails, write_page


def noisy(rng, width=300, height=200):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(content):
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture
def codes(rng):
    indices = np.argsort(rng.random((120, 30)), axis=1)[:, :4]
    return SparseCodes(indices, rng.uniform(0.1, 1, (120, 4)).astype(np.float32), 30).normalize()


def test_pictures_are_small_and_captions_stay(rng, codes, tmp_path):
    captions = [f"caption {row}" for row in range(120)]
    images = [noisy(rng, 300, 200 + row) for row in range(120)]
    write_page(tmp_path / "p.html", codes, captions, nameless(30), pictures=images)
    found = content_of(tmp_path / "p.html")
    assert found["texts"] == captions
    assert found["noun"] == "image"
    assert sorted(map(int, found["pictures"])) == list(range(120))
    small = opened(found["pictures"]["7"])
    assert (small.format, max(small.size)) == ("JPEG", 128)
    assert small.size[0] / small.size[1] == pytest.approx(300 / 207, abs=0.02)
    assert images[7].size == (300, 207)


def test_what_fits_is_of_the_strongest(rng, codes):
    images = [noisy(rng) for _ in range(120)]
    found = thumbnails.thumbnails(images, codes, 300_000)
    sizes = [len(base64.b64decode(one)) for one in found.values()]
    assert 250_000 < sum(sizes) <= 300_000
    dense = codes.to_dense()
    strongest = set(dense.argmax(axis=0))
    assert len(strongest) < len(found) < 120
    assert set(list(found)[: len(strongest)]) == strongest
    second = set(np.argsort(-dense, axis=0)[1]) - strongest
    assert len(found) > len(strongest | second)
    assert set(list(found)[: len(strongest | second)]) == strongest | second


def test_more_than_the_first_of_each_latent_come_in_order(codes):
    rows = thumbnails.in_order(codes)
    assert sorted(rows) == list(range(120))
    dense = codes.to_dense()
    first = {int(row) for latent in dense.T for row in np.argsort(-latent)[:10] if latent[row] > 0}
    assert set(rows[: len(first)]) == first
    rest = rows[len(first) :].tolist()
    assert rest == sorted(rest)


def test_nothing_but_pixels_is_kept(codes):
    exif = Image.Exif()
    exif[0x010E] = "SECRET PLACE"  # ImageDescription
    stream = io.BytesIO()
    red = Image.new("RGB", (90, 60), "red")
    red.save(stream, "JPEG", exif=exif, comment=b"SECRET WORD")
    assert b"SECRET PLACE" in stream.getvalue()
    assert b"SECRET WORD" in stream.getvalue()
    stored = EncodedImage(stream.getvalue(), "SECRET.jpg", 0, "image")
    found = thumbnails.thumbnails([stored] * 120, codes, 10**6)
    content = base64.b64decode(found[0])
    assert b"SECRET" not in content
    assert np.allclose(np.asarray(opened(found[0]).convert("RGB")), [254, 0, 0], atol=3)


def test_what_is_no_picture_is_named(codes):
    texts = ["a"] * 120
    with pytest.raises(TypeError, match="picture 0 is 'x', no image of PIL"):
        Corpus(codes, texts, pictures=["x"] * 120)
    with pytest.raises(ValueError, match="this collection has 1 pictures for 120 codes"):
        Corpus(codes, texts, pictures=[Image.new("RGB", (2, 2))])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of 400 squares: with captions, without, with room for a part, beside texts."""
    folder = tmp_path_factory.mktemp("pictures")
    codes, captions = topic_texts(np.random.default_rng(0))
    names = name_latents(codes, captions)
    colours = dict(zip(TOPICS, ("red", "green", "blue"), strict=True))
    latents = [
        next(one for one in TOPICS if set(TOPICS[one]) & set(text.split())) for text in captions
    ]
    images = [Image.new("RGB", (40, 30), colours[latent]) for latent in latents]
    write_page(folder / "captions.html", codes, captions, names, pictures=images, label="squares")
    write_page(folder / "bare.html", codes, [""] * 400, pictures=images, label="squares")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "MAX_PICTURE_BYTES", 60_000)
        write_page(folder / "part.html", codes, captions, names, pictures=images, label="squares")
    texts = Corpus(codes[:50], captions[:50], "tales")
    squares = {"pictures": images, "label": "squares", "compared": texts}
    write_page(folder / "both.html", codes, captions, names, **squares)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page_of(browser, pages):
    tabs = []

    def call(name, view, **options):
        tabs.append(Watched(browser, **options))
        return tabs[-1].open(pages / f"{name}.html", f"#/{view}")

    yield call
    for tab in tabs:
        tab.page.close()
        assert not [url for url in tab.requests if not url.startswith(("data:", "file:"))]
        assert not tab.complaints


SHOWN = """all => all.map(one => {
  const pen = document.createElement('canvas').getContext('2d');
  pen.drawImage(one, 0, 0);
  return [one.naturalWidth, ...pen.getImageData(5, 5, 1, 1).data];
})"""


def test_a_topic_shows_its_pictures(page_of):
    page = page_of("captions", "topic/3")
    images = page.locator(".detail img")
    images.last.evaluate("one => one.decode()")
    shown = images.evaluate_all(SHOWN)
    assert len(shown) == 10
    assert {(width, round(red / 10), green < 9) for width, red, green, _, _ in shown} == {
        (40, 25, True)
    }
    assert set(page.locator(".detail mark").all_text_contents()) <= set(TOPICS[3])
    assert "What do these images show?" in page.locator("h1").text_content()
    assert "400 images from squares" in page.locator(".intro").text_content()


def test_similar_images_are_found_by_captions_and_shown(page_of):
    page = page_of("captions", "similar/1")
    assert page.locator(".query img").count() == 1
    assert page.locator(".hit img").count() == 10
    page.get_by_label("Choose an image").fill("flour")
    until(page, "document.querySelectorAll('.choices img.tiny').length === 8")


def test_images_without_captions_have_a_page(page_of):
    page = page_of("bare", "similar/2", width=400)
    assert page.locator(".query img").get_attribute("alt") == "Image 2"
    assert page.locator("text=an empty text").count() == 0
    assert page.get_by_label("Choose an image").count() == 0
    page.get_by_role("button", name="Pick one at random").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_the_page_says_how_many_images_it_has_room_for(page_of):
    page = page_of("part", "similar/1")
    number = page.locator(".hit img").count()
    assert number < 10
    missing = page.locator(".hit", has_text="this page had no room for its picture")
    assert missing.count() == 10 - number
    said = page.locator(".intro").text_content()
    assert "This page has room for 0.06 MB of small pictures: they are of " in said
    assert " of the 400 images, first" in said


def test_images_beside_texts(page_of):
    page = page_of("both", "topic/3")
    sections = page.locator(".detail section")
    assert sections.nth(2).locator("img").count() == 5
    assert sections.nth(3).locator("img").count() == 0
    assert sections.nth(3).locator(".text").count() == 5
    assert (
        "400 images from squares and 50 texts from tales" in page.locator(".intro").text_content()
    )
