"""The page in a real browser: what a user sees and does, from a file, without a network."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest
from chromium import Visit, chromium
from topics import TOPICS, topic_texts

import csr_st
from csr_st.insight.page import Corpus, PageServer, render_page, write_page

VIEWS = ("#/topics", "#/topic/3", "#/similar/5", "#/map", "#/compare")
HOSTILE = {
    1: "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> wing lift",
    2: "</script><script>window.hacked = 3</script> {{script}} <!-- wing flap",
    3: "wing 👩‍🚀🎈 lift &amp; &lt;b&gt;",
    4: "مرحبا بالعالم wing שלום lift",
    5: "wing lift " + "long " * 19_998,  # 100,000 characters
}


@pytest.fixture(scope="module")
def corpus():
    return topic_texts(np.random.default_rng(0))


def two_collections(codes):
    """Rows of two collections; topic 3 is more frequent in the first, topic 7 in the second."""
    dense = codes.to_dense() > 0
    order = np.argsort(dense[:, 7].astype(int) - dense[:, 3], kind="stable")
    second = np.zeros(len(order), bool)
    second[order[180:]] = True
    second[order[:30]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


@pytest.fixture(scope="module")
def files(corpus, tmp_path_factory):
    """Addresses of a plain page, one of two collections and one of hostile texts."""
    codes, texts = corpus
    folder = tmp_path_factory.mktemp("pages")
    write_page(folder / "plain.html", codes, texts, title="Some texts")
    first, second = two_collections(codes)
    other = Corpus(codes[second], [texts[row] for row in second], "second")
    shown = [texts[row] for row in first]
    write_page(folder / "two.html", codes[first], shown, label="first", compared=other)
    hostile = list(texts)
    for row, text in HOSTILE.items():
        hostile[row] = text
    indices, values = codes.indices.copy(), codes.values.copy()
    for at, row in enumerate(HOSTILE):
        indices[row], values[row] = (3, 12 + at), (0.999, 0.01)
    strong = csr_st.SparseCodes(indices, values, codes.hidden_dim)
    write_page(folder / "hostile.html", strong, hostile, title="<i>Title</i>")
    return {path.stem: path.as_uri() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser, files):
    visits = []

    def opened(name="plain", **options):
        visits.append(Visit(browser, files.get(name, name), **options))
        return visits[-1]

    yield opened
    for one in visits:
        one.close()


def similarities(codes, factors, row):
    """Dense scores of all texts for the text ``row``, whose latents are weighted."""
    dense = codes.to_dense().astype(np.float64)
    query = dense[row] * [factors.get(latent, 1) for latent in range(codes.hidden_dim)]
    scores = dense @ query
    scores[row] = 0
    return scores


def hits(tab):
    """[row, score] of the hits that are shown."""
    return tab.eval_on_selector_all(
        "li.hit", "hits => hits.map(hit => [Number(hit.dataset.row), Number(hit.dataset.score)])"
    )


def assert_best(found, scores):
    """That hits are the best by dense scores, of equal ones whichever."""
    assert len(found) == 10
    np.testing.assert_allclose([score for _, score in found], -np.sort(-scores)[:10], atol=1e-6)
    np.testing.assert_allclose([scores[row] for row, _ in found], -np.sort(-scores)[:10], atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "two", "hostile"])
def test_a_page_opens_from_disk_asks_for_nothing_and_complains_of_nothing(visit, files, name):
    page = visit(name)
    for view in VIEWS:
        page.show(view)
    asked = {url.partition("#")[0] for url in page.requests}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {files[name]}
    assert page.complaints == []


def test_a_script_that_got_into_the_page_would_not_run(visit):
    page = visit()
    page.tab.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    assert page.tab.evaluate("window.hacked") is None
    assert "Content Security Policy" in page.complaints[0]
    with pytest.raises(Exception, match="Failed to fetch"):
        page.tab.evaluate("fetch('http://127.0.0.1:9/')")


def test_a_topic_is_found_by_a_word_of_its_name(visit):
    tab = visit().tab
    tab.get_by_label("Find a topic").fill("FLOUR")
    assert "1 topic with “FLOUR”" in tab.get_by_role("status").first.inner_text()
    tab.locator(".topics a").click()
    heading = tab.locator(".detail h2").inner_text()
    assert set(TOPICS[7]) & set(heading.split(", "))
    tab.get_by_label("Find a topic").fill("zeppelin")
    assert tab.locator(".topics a").count() == 0
    assert "No topic has “zeppelin”" in tab.get_by_role("status").first.inner_text()


def test_a_topic_without_a_name_says_so(visit, corpus):
    names = csr_st.name_latents(*corpus)
    latent = next(name.latent for name in names if not name.words)
    page = visit()
    page.show(f"#/topic/{latent}")
    assert page.tab.locator(".detail h2").inner_text() == f"topic {latent} (no name)"
    assert "It has no name" in page.tab.locator(".detail").inner_text()


def test_a_topic_shows_its_strongest_texts_with_its_words_marked(visit, corpus):
    codes, texts = corpus
    page = visit()
    page.show("#/topic/3")
    strongest = np.argsort(-codes.to_dense()[:, 3], kind="stable")[:10]
    shown = page.tab.locator(".texts .text").all_inner_texts()
    assert shown == [texts[row] for row in strongest]
    marked = set(page.tab.locator(".texts .text mark").all_inner_texts())
    assert marked
    assert marked <= set(csr_st.name_latents(*corpus)[3].words)


def test_a_histogram_counts_every_text_once(visit, corpus):
    page = visit()
    page.show("#/topic/3")
    titles = page.tab.eval_on_selector_all(
        ".histogram rect title", "titles => titles.map(title => title.textContent)"
    )
    counts = [int(title.split()[0]) for title in titles]
    values = corpus[0].to_dense()[:, 3]
    edges = np.linspace(0, values.max(), 21)
    expected = np.histogram(values[values > 0], edges)[0]
    assert sum(counts) == (values > 0).sum()
    np.testing.assert_allclose(counts, expected, atol=1)  # a value at the edge of two bars


def test_a_neighbour_is_one_click_away(visit, corpus):
    page = visit()
    page.show("#/topic/3")
    near = csr_st.name_latents(*corpus)[3].neighbours
    page.tab.locator(".chips a").first.click()
    page.tab.wait_for_function(f"location.hash === '#/topic/{near[0]}'")
    assert f"Topic {near[0]}." in page.tab.locator(".detail").inner_text()


def test_the_hits_of_a_text_are_the_best_by_dense_scores(visit, corpus):
    page = visit()
    page.show("#/similar/8")
    assert_best(hits(page.tab), similarities(corpus[0], {}, 7))


def test_the_shown_shares_add_up_to_the_shown_score(visit):
    page = visit()
    page.show("#/similar/8")
    for hit in page.tab.locator("li.hit").all():
        total = float(hit.locator(".score strong").inner_text())
        parts = [float(part) for part in hit.locator(".shares .number").all_inner_texts()]
        assert parts
        assert sum(parts) == pytest.approx(total, abs=1e-9)


def test_sliders_rank_again_as_dense_scores_do(visit, corpus):
    codes = corpus[0]
    page = visit()
    page.show("#/similar/8")
    first, second = (int(latent) for latent in codes.indices[7])
    sliders = page.tab.locator(".slider input[type=range]")
    sliders.nth(0).fill("0")
    assert_best(hits(page.tab), similarities(codes, {first: 0}, 7))
    sliders.nth(0).fill("0.5")
    sliders.nth(1).fill("4")
    assert_best(hits(page.tab), similarities(codes, {first: 0.5, second: 4}, 7))
    page.tab.get_by_role("button", name="Reset all").click()
    assert_best(hits(page.tab), similarities(codes, {}, 7))


def test_a_hidden_topic_is_in_no_hit(visit, corpus):
    codes = corpus[0]
    page = visit()
    page.show("#/similar/8")
    page.tab.locator(".slider .hide input").nth(1).check()
    scores = similarities(codes, {}, 7)
    scores[codes.to_dense()[:, codes.indices[7, 1]] > 0] = 0
    assert_best(hits(page.tab), scores)


def test_an_added_topic_counts(visit, corpus):
    codes = corpus[0]
    page = visit()
    latent = next(one for one in TOPICS if one not in codes.indices[7])
    page.show("#/similar/8")
    page.tab.get_by_label("Add a topic").fill(csr_st.name_latents(*corpus)[latent].words[0])
    page.tab.locator(".adder .choices button").first.click()
    page.tab.locator(".slider input[type=range]").first.fill("4")
    dense = codes.to_dense()
    assert all(dense[row, latent] > 0 for row, _ in hits(page.tab))


def test_two_collections_show_what_one_uses_more(visit, corpus):
    dense = corpus[0].to_dense() > 0
    page = visit("two")
    page.show("#/compare")
    found = []
    for side, section in enumerate(page.tab.locator(".columns section").all()):
        for item in section.locator(".differences > li").all():
            latent = int(item.locator("a").get_attribute("href").rsplit("/", 1)[1])
            shares = [dense[rows, latent].mean() for rows in two_collections(corpus[0])]
            numbers = item.locator(".number").all_inner_texts()
            shown = [float(re.match(r"[\d.]+", number)[0]) / 100 for number in numbers]
            np.testing.assert_allclose(shown, shares, atol=0.006)
            assert shares[side] > shares[1 - side]
            found.append((side, latent))
    assert {(0, 3), (1, 7)} <= set(found)


def test_texts_of_any_kind_appear_as_text_and_run_nothing(visit):
    page = visit("hostile")
    for view in ("#/topic/3", "#/similar/2", "#/similar/3", "#/similar/6"):
        page.show(view)
        assert page.tab.evaluate("window.hacked") is None
    page.show("#/topic/3")
    for button in page.tab.get_by_role("button", name="Show the whole text").all():
        button.click()
    shown = page.tab.locator(".texts .text").all_inner_texts()
    assert all(HOSTILE[row] in shown for row in (1, 2, 3, 4))
    assert any("(cut here: 2,000 of 100,000 characters)" in text for text in shown)
    assert page.tab.locator("main img, main script, main b:has-text('&')").count() == 0
    assert page.tab.title() == "<i>Title</i>"
    arabic = page.tab.locator(".text", has_text="مرحبا").first
    assert arabic.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert page.complaints == []


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["two", "hostile"])
def test_no_view_is_wider_than_the_window(visit, name, width):
    page = visit(name, width=width)
    for view in VIEWS:
        page.show(view)
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width, view


def luminance(tab):
    """Relative luminance (WCAG 2.2) of the page's background and of its text."""
    style = "getComputedStyle(document.body)"
    colours = tab.evaluate(f"[{style}.backgroundColor, {style}.color]")
    found = []
    for colour in colours:
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (int(one) / 255 for one in re.findall(r"\d+", colour)[:3])
        )
        found.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return found


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system_and_are_legible(visit, scheme, is_dark):
    paper, ink = luminance(visit(scheme=scheme).tab)
    assert (paper < ink) == is_dark
    assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 7  # WCAG 2.2, level AAA


def test_a_button_changes_the_colours(visit):
    tab = visit(scheme="light").tab
    button = tab.locator("#theme")
    button.click()
    button.click()
    paper, ink = luminance(tab)
    assert paper < ink
    assert "dark" in button.get_attribute("aria-label")


def focused(tab):
    return tab.evaluate(
        """() => {
            const one = document.activeElement;
            return (one.getAttribute("aria-label") || one.id || one.textContent).trim();
        }"""
    )


def test_the_keyboard_alone_goes_everywhere(visit):
    page = visit()
    keys, tab = page.tab.keyboard, page.tab
    reached = []
    for _ in range(7):
        keys.press("Tab")
        reached.append(focused(tab))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.evaluate(outline) != "none", reached
    assert reached[0] == "Skip to the content"
    assert {"Topics", "Similar texts", "Map"} <= set(reached)
    tab.locator("nav a", has_text="Similar texts").focus()
    keys.press("Enter")
    tab.wait_for_selector("li.hit")
    assert focused(tab) == "Similar texts, and why"
    for _ in range(20):
        keys.press("Tab")
        if tab.evaluate("document.activeElement.type") == "range":
            break
    before = hits(tab)
    keys.press("Home")  # off
    assert hits(tab) != before
    assert tab.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "off"
    tab.locator("nav a", has_text="Map").focus()
    keys.press("Enter")
    tab.locator("canvas").focus()
    keys.press("ArrowRight")
    assert "texts" in tab.locator(".chosen-topic").inner_text()
    keys.press("Enter")
    tab.wait_for_function("location.hash.startsWith('#/topic/')")


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name_for_screen_readers(visit, view):
    page = visit("two")
    page.show(view)
    nameless = page.tab.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a, canvas, svg")]
            .filter(one => one.offsetParent !== null || one.tagName === "svg")
            .filter(one => !(one.getAttribute("aria-label") || one.textContent.trim()
                || [...(one.labels || [])].some(label => label.textContent.trim())))
            .map(one => one.outerHTML)"""
    )
    assert nameless == []


@pytest.fixture
def served(corpus):
    codes, texts = corpus
    page = render_page(codes, texts, live=True)
    with PageServer(page, lambda text: codes[np.array([texts.index(text)])]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_served_page_finds_texts_like_what_is_typed(visit, corpus, served):
    codes, texts = corpus
    page = visit(served.url)
    page.show("#/similar")
    page.tab.get_by_label("Your own text").fill(texts[9])
    page.tab.get_by_role("button", name="Find similar texts").click()
    page.tab.wait_for_selector("text=Your text")
    dense = codes.to_dense().astype(np.float64)
    assert_best(hits(page.tab), dense @ dense[9])  # its own row is a hit too
    assert {url.partition("#")[0] for url in page.requests if not url.startswith("data:")} == {
        served.url,
        served.url + "encode",
    }
    assert page.complaints == []


def test_a_served_page_says_why_a_text_cannot_be_encoded(visit, served):
    page = visit(served.url)
    page.show("#/similar")
    page.tab.get_by_label("Your own text").fill("x" * (1 << 20))
    page.tab.get_by_role("button", name="Find similar texts").click()
    page.tab.wait_for_selector("text=1,048,576 is the most; shorten it")
    assert json.dumps(page.complaints).count("413") == 1  # what the browser itself says of it
