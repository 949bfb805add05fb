"""The page in a real browser: what it shows, that it can be steered, and that it runs nothing."""

from __future__ import annotations

import numpy as np
import pytest
from browser import Watched, chromium, until
from topics import TOPICS, topic_texts

from csr_st import LatentName, LatentNames, SparseCodes, SparseIndex, name_latents
from csr_st.insight.page import Corpus, write_page

VIEWS = ("topics", "similar/1", "map", "compare")
HOSTILE = [
    "<script>window.hacked = 1; alert(1)</script><img src=x onerror='window.hacked = 1'>",
    "</script><script>window.hacked = 1</script><!-- <b>bold</b> &lt;",
    "שלום עולם, זה טקסט מימין לשמאל על נהרות",
    "A family 👨‍👩‍👧‍👦 and a flag 🇪🇺, then " + "🙂" * 400,
    "long " * 20_000,
    "{{script}} ${1} \\u003c \u2028 \ud800",
    "",
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def random_codes():
    """300 texts of 8 latents out of 40, so that most share some."""
    rng = np.random.default_rng(1)
    indices = np.argsort(rng.random((300, 40)), axis=1)[:, :8]
    return SparseCodes(indices, rng.uniform(0.1, 1, (300, 8)).astype(np.float32), 40).normalize()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, random_codes):
    """Pages by name: on topics, on random codes, on hostile texts, of two collections."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    codes, texts = topic_texts(rng)
    write_page(folder / "topics.html", codes, texts, label="tales")
    numbers = [f"text number {row}" for row in range(300)]
    write_page(folder / "random.html", random_codes, numbers)
    hostile = [*HOSTILE, *texts[len(HOSTILE) :]]
    bad = "<img src=x onerror=alert(2)>\"'</title><script>alert(3)</script>{{data}}"
    names = name_latents(codes, texts)
    write_page(folder / "hostile.html", codes, hostile, names, title=bad, label=bad)
    some = [LatentName(11, ("wing", "lift"), 0.9, 0.3)]
    write_page(
        folder / "unnamed.html", codes, texts, LatentNames(some, hidden_dim=20, k=2, n_texts=400)
    )
    nothing = SparseCodes(np.tile(np.arange(2), (3, 1)), np.zeros((3, 2), np.float32), 20)
    write_page(folder / "empty.html", nothing, ["a", "", "b"], names)
    has_wing = np.array(["wing" in text or "lift" in text for text in texts])
    some = [text for text, has in zip(texts, has_wing, strict=True) if has]
    write_page(
        folder / "two.html",
        codes[~has_wing],
        [text for text, has in zip(texts, has_wing, strict=True) if not has],
        label="ground",
        compared=Corpus(codes[has_wing], some, "air"),
    )
    return folder


@pytest.fixture
def opened(browser, pages):
    """Opens a page by name; at the end the tab must have asked for nothing and said nothing."""
    tabs = []

    def call(name, view="", **options):
        tab = Watched(browser, **options)
        tabs.append((tab, (pages / f"{name}.html").as_uri()))
        return tab.open(pages / f"{name}.html", f"#/{view}")

    yield call
    for tab, address in tabs:
        tab.page.close()
        asked = {url.partition("#")[0] for url in tab.requests if not url.startswith("data:")}
        assert asked <= {address}
        assert not tab.complaints


def hits(page):
    """Rows and scores as they are shown, best first."""
    found = page.locator(".hit").evaluate_all(
        "all => all.map(one => [+one.dataset.row, +one.dataset.score])"
    )
    return [int(row) for row, _ in found], [score for _, score in found]


def set_slider(page, place, value):
    """Move the slider of one of the query's topics, by its place, as a script would."""
    page.locator(".slider input[type=range]").nth(place).fill(str(value))


def test_it_opens_from_a_file_and_asks_for_nothing(opened):
    page = opened("topics")
    assert page.title() == "tales"
    assert page.locator("h1").text_content() == "What are these texts about?"
    assert "has read 400 texts from tales" in page.locator(".intro").text_content()
    for view in VIEWS:
        page.evaluate(f"location.hash = '#/{view}'")
        page.wait_for_timeout(50)
    # `opened` checks at the end that there was no request and no message


def test_texts_without_any_topic_have_a_page(opened):
    page = opened("empty")
    for view in VIEWS:
        page.evaluate(f"location.hash = '#/{view}'")
        page.wait_for_timeout(50)
    page.evaluate("location.hash = '#/similar/1'")
    page.wait_for_selector(".query .text")
    assert "None of the topics here is in this text" in page.locator(".sliders").text_content()


def test_its_policy_forbids_requests(browser, pages):
    tab = Watched(browser)
    page = tab.open(pages / "topics.html")
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == (
        "refused"
    )
    assert "Content Security Policy" in " ".join(tab.complaints)
    assert not [url for url in tab.requests if url.startswith("http")]
    page.close()


def test_a_topic_is_found_by_its_name_and_shows_its_texts(opened):
    page = opened("topics")
    page.get_by_label("Find a topic").fill("WING")
    listed = page.locator(".topics a")
    assert listed.count() == 1
    listed.click()
    page.wait_for_selector(".detail .texts")
    assert page.locator(".detail h2").text_content().split(", ")[0] in ("wing", "lift", "flap")
    assert "Topic number 3, found in " in page.locator(".detail").text_content()
    assert "How well the name fits: " in page.locator(".detail").text_content()
    marks = set(page.locator(".detail mark").all_text_contents())
    assert marks
    assert marks <= {"wing", "lift", "flap"}
    said = page.locator(".histogram").get_attribute("aria-label")
    assert said.startswith(page.locator(".topics .use").first.text_content())
    page.get_by_label("Find a topic").fill("nothing like it")
    assert page.locator(".topics a").count() == 0
    assert "No topic has" in page.locator(".aside [role=status]").text_content()


def test_the_first_topic_that_is_shown_has_a_name(opened):
    page = opened("unnamed")
    assert "(no name)" in page.locator(".topics a").first.text_content()
    assert page.locator(".detail h2").text_content() == "wing, lift"


def test_neighbours_lead_to_their_topic(opened):
    page = opened("topics", "topic/3")
    link = page.locator(".chips a").first
    name, target = link.text_content(), link.get_attribute("href")
    link.click()
    until(page, f"location.hash === {target!r}")
    page.locator(".detail h2", has_text=name.split(",")[0]).wait_for()  # drawn after the event


def test_a_topic_without_a_name_is_shown_as_such(opened):
    page = opened("random")
    named = page.locator(".topics a:not(.unnamed)").count()
    unnamed = page.locator(".topics a.unnamed")
    assert named < unnamed.count()
    assert "(no name)" in unnamed.first.text_content()
    unnamed.first.click()
    page.wait_for_selector(".detail h2.unnamed")
    assert "It has no name, because" in page.locator(".detail").text_content()


def test_hits_and_scores_are_those_of_the_index(opened, random_codes):
    page = opened("random", "similar/6")
    expected = SparseIndex.build(random_codes).search(random_codes[5:6], top_k=11)
    keep = expected.ids[0] != 5
    rows, scores = hits(page)
    np.testing.assert_allclose(scores, expected.scores[0][keep], atol=1e-6)
    assert rows == expected.ids[0][keep].tolist()


def test_shown_parts_add_up_to_the_shown_score(opened):
    page = opened("random", "similar/6")
    for hit in page.locator(".hit").all():
        parts = [float(part) for part in hit.locator(".shares .number").all_text_contents()]
        assert len(parts) > 1
        shown = float(hit.locator(".score strong").text_content())
        assert round(sum(parts), 3) == shown
        assert shown == pytest.approx(float(hit.get_attribute("data-score")), abs=5e-4)


def test_sliders_rank_as_boosted_codes_do(opened, random_codes):
    page = opened("random", "similar/6")
    before = hits(page)
    set_slider(page, 0, 3)
    set_slider(page, 2, 0)
    latents = random_codes.indices[5]
    dense = random_codes.to_dense()
    factors = np.ones(40)
    factors[latents[0]], factors[latents[2]] = 3, 0
    scores = dense @ (dense[5] * factors)
    scores[5] = 0
    rows, shown = hits(page)
    order = np.argsort(-scores)[:10]
    np.testing.assert_allclose(shown, scores[order], atol=1e-5)
    assert rows == order.tolist()
    assert page.locator(".slider output").nth(0).text_content().endswith(" 3.0")
    assert page.locator(".slider output").nth(2).text_content() == "off"
    page.get_by_role("button", name="Reset all").click()
    assert hits(page) == before


def test_hidden_topics_leave_their_texts_out(opened, random_codes):
    page = opened("random", "similar/6")
    page.get_by_label("Hide").nth(1).check()
    rows, _ = hits(page)
    latent = random_codes.indices[5][1]
    assert rows
    assert not np.any(random_codes.to_dense()[rows][:, latent])


def test_a_topic_can_be_added_to_the_query(opened):
    page = opened("topics", "similar/1")
    own = page.locator(".slider").all_text_contents()
    topic = next(words for words in TOPICS.values() if not set(words) & set(" ".join(own).split()))
    page.get_by_label("Add a topic").fill(topic[0])
    page.locator(".adder button").first.click()
    assert page.locator(".slider").count() == len(own) + 1
    slider = page.locator(".slider input[type=range]").first
    assert slider.evaluate("one => one === document.activeElement")
    slider.fill("4")
    assert topic[0] in page.locator(".hit .shares a").first.text_content()


def test_a_text_is_found_by_its_words(opened):
    page = opened("random", "similar/6")
    page.get_by_label("Choose a text").fill("number 123")
    page.locator(".choices a", has_text="text number 123").click()
    until(page, "location.hash === '#/similar/124'")
    page.locator(".query", has_text="text number 123").wait_for()
    assert 123 not in hits(page)[0]
    page.locator(".hit a", has_text="Find texts like this one").first.click()
    until(page, "location.hash !== '#/similar/124'")


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["two", "hostile"])
def test_nothing_is_wider_than_the_window(opened, width, name):
    page = opened(name, width=width)
    for view in (*VIEWS, "topic/3"):
        page.evaluate(f"location.hash = '#/{view}'")
        page.wait_for_timeout(80)
        assert page.evaluate("document.documentElement.scrollWidth") == width, view


LUMINANCE = """names => names.map(name => {
  const [one, other] = name.map(property => getComputedStyle(document.documentElement)
    .getPropertyValue(property).trim().match(/[0-9a-f]{2}/g)
    .map(part => parseInt(part, 16) / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0));
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_are_readable(opened, scheme):
    page = opened("topics", scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    lightness = [int(part) for part in page.evaluate(background)[4:-1].split(",")]
    assert (max(lightness) < 60) == (scheme == "dark")
    pairs = [["--ink", "--paper"], ["--ink", "--card"], ["--soft", "--paper"], ["--soft", "--card"]]
    pairs += [["--accent", "--paper"], ["--accent", "--card"], ["--mark-ink", "--mark"]]
    # 4.5 is what WCAG 2.2 asks for, success criterion 1.4.3
    assert min(page.evaluate(LUMINANCE, pairs)) >= 4.5


def test_a_button_changes_light_to_dark(opened):
    page = opened("topics", scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    button = page.get_by_role("button", name="Colours")
    button.click()  # light
    assert page.evaluate(background) == before
    button.click()  # dark
    assert page.evaluate(background) != before


def test_everything_can_be_done_by_keyboard(opened):
    page = opened("topics")
    keys = page.keyboard
    focused = "document.activeElement"

    def tab_to(condition):
        for _ in range(60):
            keys.press("Tab")
            if page.evaluate(f"(one => {condition})({focused})"):
                outline = page.evaluate(f"getComputedStyle({focused}).outlineStyle")
                assert outline != "none"
                return
        raise AssertionError(condition)

    keys.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "Skip to the content"
    tab_to("one.id === 'topic-search'")
    keys.type("flour")
    tab_to("one.hash?.startsWith('#/topic/7')")
    keys.press("Enter")
    until(page, f"{focused}.matches('.detail h2')")
    tab_to("one.hash?.startsWith('#/similar/')")
    keys.press("Enter")
    until(page, "!!document.querySelector('.hit')")
    first = hits(page)
    tab_to("one.type === 'range'")
    keys.press("Home")
    assert page.locator(".slider output").first.text_content() == "off"
    assert hits(page) != first
    assert page.evaluate(f"{focused}.type") == "range"
    tab_to("one.type === 'checkbox'")
    keys.press("Space")
    page.locator("nav a", has_text="Map").focus()
    keys.press("Enter")
    until(page, "document.querySelector('canvas')?.closest('section').hidden === false")
    tab_to("one.tagName === 'CANVAS'")
    keys.press("ArrowRight")
    name = page.locator(".chosen-topic a").text_content()
    keys.press("ArrowLeft")
    assert page.locator(".chosen-topic a").text_content() != name
    keys.press("+")
    keys.press("0")
    keys.press("Enter")
    until(page, "location.hash.startsWith('#/topic/')")


def test_every_control_has_a_name(opened):
    page = opened("two", "topics")
    for view in VIEWS:
        page.evaluate(f"location.hash = '#/{view}'")
        page.wait_for_timeout(50)
    nameless = page.evaluate(
        """[...document.querySelectorAll('input, select, textarea, button, a, canvas, svg')]
        .filter(one => !(one.labels?.length || one.getAttribute('aria-label')
                         || one.textContent.trim()))
        .map(one => one.outerHTML)"""
    )
    assert nameless == []
    twice = page.evaluate(
        """[...document.querySelectorAll('[id]')].map(one => one.id)
        .filter((id, at, all) => all.indexOf(id) !== at)"""
    )
    assert twice == []


def test_the_map_opens_the_topic_that_is_clicked(opened):
    page = opened("topics", "map")
    page.get_by_label("Mark topics with").fill("wing")
    canvas = page.locator("canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".chosen-topic a").get_attribute("href") == "#/topic/3"
    page.locator(".chosen-topic a").click()
    until(page, "location.hash === '#/topic/3'")


@pytest.fixture
def touched(opened):
    """The map on a narrow screen, and a function that puts, moves and lifts fingers on it."""
    page = opened("topics", "map", width=400, touch=True)
    session = page.context.new_cdp_session(page)
    box = page.locator("canvas").bounding_box()

    def call(kind, *places):
        points = [{"x": box["x"] + x, "y": box["y"] + y} for x, y in places]
        for number, point in enumerate(points):
            point["id"] = number
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    return page, call


def zoom_of(page):
    return float(page.locator("canvas").get_attribute("data-zoom"))


def test_two_fingers_zoom_the_map_and_not_the_page(touched):
    page, touch = touched
    assert zoom_of(page) == 1
    touch("Start", (150, 200), (200, 200))
    for step in range(1, 11):
        touch("Move", (150 - 5 * step, 200), (200 + 5 * step, 200))
    touch("End")
    assert zoom_of(page) == pytest.approx(3, abs=0.05)  # 50 pixels became 150
    assert page.evaluate("window.visualViewport.scale") == 1
    touch("Start", (75, 200), (225, 200))
    touch("Move", (140, 200), (160, 200))
    touch("End")
    assert zoom_of(page) == 1


def test_a_finger_chooses_a_topic_and_scrolls_the_page(opened):
    page = opened("topics", "map", width=400, touch=True)
    canvas = page.locator("canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    name = page.locator(".chosen-topic a").text_content()
    assert canvas.evaluate("one => getComputedStyle(one).touchAction") == "pan-x pan-y"
    page.get_by_role("button", name="Zoom in").tap()
    assert canvas.evaluate("one => getComputedStyle(one).touchAction") == "none"
    box = canvas.bounding_box()
    for x in range(20, int(box["width"]), 40):
        for y in range(20, int(box["height"]), 40):
            canvas.tap(position={"x": x, "y": y})
            found = page.locator(".chosen-topic a").all_text_contents()
            if found and found != [name]:
                return
    raise AssertionError("no dot can be tapped")


def test_the_wheel_zooms_the_map_and_scrolls_where_there_is_nothing_to_zoom(opened):
    page = opened("topics", "map")
    page.set_viewport_size({"width": 1200, "height": 600})
    page.locator("canvas").hover()
    before = page.evaluate("window.scrollY")
    page.mouse.wheel(0, -300)
    until(page, "document.querySelector('canvas').dataset.zoom > 1.5")
    page.mouse.wheel(0, 3000)
    until(page, "document.querySelector('canvas').dataset.zoom === '1.00'")
    assert page.evaluate("window.scrollY") == before
    page.mouse.wheel(0, 300)
    until(page, f"window.scrollY > {before}")


def test_the_map_is_drawn(opened):
    page = opened("topics", "map")
    colours = page.evaluate(
        """(() => { const one = document.querySelector('canvas');
        const all = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
        return new Set(new Uint32Array(all.buffer)).size })()"""
    )
    assert colours > 20


@pytest.mark.parametrize("row", range(len(HOSTILE)))
def test_hostile_texts_are_shown_as_text(opened, row):
    page = opened("hostile", f"similar/{row + 1}")
    shown = page.locator(".query .text")
    if page.locator(".query button").count():
        page.locator(".query button").click()
    text = HOSTILE[row].replace("\ud800", "?")
    found = shown.text_content()
    if not text:
        assert found == "(an empty text)"
    elif len(text) > 2000:
        assert found == f"{text[:2000]} … (cut here: 2,000 of 100,000 characters)"
    else:
        assert found == text
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, b.bold").count() == 0
    assert page.locator("script").count() == 2


def test_right_to_left_texts_run_so(opened):
    page = opened("hostile", "similar/3")
    assert page.locator(".query .text").evaluate("one => getComputedStyle(one).direction") == "rtl"


def test_hostile_titles_are_shown_as_text(opened):
    page = opened("hostile")
    assert page.title().startswith("<img src=x")
    assert page.locator(".brand").text_content().endswith("{{data}}")
    assert page.locator("script").count() == 2


def test_two_collections_are_compared(opened):
    page = opened("two", "compare")
    sides = page.locator(".columns section")
    assert sides.nth(1).locator("h3").text_content() == "More in air"
    first = sides.nth(1).locator("li").first
    assert {"wing", "lift", "flap"} & set(first.locator("a").text_content().split(", "))
    ground, air = (
        float(part.split("%")[0]) for part in first.locator(".number").all_text_contents()
    )
    assert air > 90 > 10 > ground
    first.locator("a").click()
    page.wait_for_selector(".detail h3")
    headings = page.locator(".detail h3").all_text_contents()
    assert headings[-2:] == ["Texts most about it in ground", "Texts most about it in air"]
    page.evaluate("location.hash = '#/similar/1'")
    page.wait_for_selector(".hit .tag")
    assert set(page.locator(".hit .tag").all_text_contents()) <= {"ground", "air"}
