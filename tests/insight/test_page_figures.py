"""The figures that the page shows are those that counting gives, in a real browser."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
from browser import Watched, chromium, until
from topics import topic_texts

import csr_st
from csr_st.insight.page import Corpus, PageServer, render_page, write_page


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def given():
    return topic_texts(np.random.default_rng(0))


@pytest.fixture
def opened(browser, given, tmp_path):
    """Opens a view of the page of ``given``, with the arguments of `write_page`."""
    tabs = []

    def call(view, codes=None, texts=None, **options):
        write_page(
            tmp_path / "page.html",
            given[0] if codes is None else codes,
            given[1] if texts is None else texts,
            **options,
        )
        tabs.append(Watched(browser))
        return tabs[-1].open(tmp_path / "page.html", view)

    yield call
    for tab in tabs:
        tab.page.close()


def test_a_histogram_counts_every_text_once(opened, given):
    values = given[0].to_dense()[:, 3]
    titles = opened("#/topic/3").locator(".histogram title").all_text_contents()
    counts = [int(title.split()[0]) for title in titles]
    assert sum(counts) == np.count_nonzero(values)
    expected, _ = np.histogram(values[values > 0], np.linspace(0, values.max(), 21))
    np.testing.assert_allclose(counts, expected, atol=1)  # a value at the edge of two bars


def test_the_texts_of_a_topic_are_its_strongest_in_order(opened, given):
    strongest = np.argsort(-given[0].to_dense()[:, 3], kind="stable")[:10]
    shown = opened("#/topic/3").locator(".texts .text").all_text_contents()
    assert shown == [given[1][row] for row in strongest]


def test_shares_of_two_collections_are_those_that_counting_gives(opened, given):
    """Topic 3 is more frequent in the first, topic 7 in the second."""
    codes, texts = given
    dense = codes.to_dense() > 0
    order = np.argsort(dense[:, 7].astype(int) - dense[:, 3], kind="stable")
    rows = order[30:180], np.concatenate([order[180:], order[:30]])
    some, others = ([texts[row] for row in part] for part in rows)
    page = opened("#/compare", codes[rows[0]], some, compared=Corpus(codes[rows[1]], others, "two"))
    found = set()
    for side, section in enumerate(page.locator(".columns section").all()):
        for item in section.locator(".differences > li").all():
            latent = int(item.locator("a").get_attribute("href").rsplit("/", 1)[1])
            shares = [dense[part, latent].mean() for part in rows]
            numbers = item.locator(".number").all_text_contents()
            shown = [float(re.match(r"[\d.]+", number)[0]) / 100 for number in numbers]
            np.testing.assert_allclose(shown, shares, atol=0.006)  # shown as whole per cent
            assert shares[side] > shares[1 - side]
            found.add((side, latent))
    assert {(0, 3), (1, 7)} <= found


def test_weaker_topics_are_listed_when_they_are_opened(opened, rng):
    indices = np.argsort(rng.random((60, 12)), axis=1)[:, :10]
    codes = csr_st.SparseCodes(indices, np.full((60, 10), 0.3, np.float32), 12)
    page = opened("#/similar/1", codes, ["some words"] * 60)
    hit = page.locator("li.hit").first
    total = float(hit.locator(".score strong").text_content())
    before = hit.locator(".shares .number").count()
    summary = hit.locator("summary")
    rest = float(summary.text_content().rsplit(" ", 1)[1])
    summary.click()
    until(page, "document.querySelector('li.hit details .shares li') !== null")
    parts = [float(part) for part in hit.locator(".shares .number").all_text_contents()]
    assert len(parts) > before
    assert sum(parts) == pytest.approx(total, abs=1e-9)
    assert sum(parts[before:]) == pytest.approx(rest, abs=1e-9)


def test_a_script_that_got_into_the_page_would_not_run(opened):
    page = opened("#/topics")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.hacked") is None


def test_one_text_has_a_page_with_names_of_others(opened):
    codes = csr_st.SparseCodes(np.arange(6)[None], np.full((1, 6), 0.4, np.float32), 8)
    names = csr_st.name_latents(csr_st.SparseCodes.concatenate([codes] * 2), ["a", "b"])
    page = opened("#/map", codes, ["some words"], names=names)
    assert page.locator("h2", has_text="Map of topics").is_visible()


def test_a_typed_text_that_is_too_long_is_told_so(browser, given):
    with PageServer(render_page(*given, live=True), lambda _: given[0][:1]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = Watched(browser)
        page = tab.open(server.url, "#/similar")
        page.get_by_label("Your own text").fill("x" * (1 << 20))
        page.get_by_role("button", name="Find similar texts").click()
        page.get_by_text("1,048,576 is the most; shorten it").wait_for()
        page.close()
        server.shutdown()
