// The view of similar texts: a query, sliders for its topics, and the hits with the reasons.

const SHOWN = 10; // hits at a time
const SLIDERS = 8; // topics before the button that shows the rest; half as many on a narrow screen
const COLOURS = 8;
const NAMED_SHARES = 5; // shares of a hit before the rest is summed up

function similarView(page) {
  const { data, topics, ranking } = page;
  let query = null; // {row, text, strengths: Map of place to strength, added: Set}
  let factors = new Map();
  let hidden = new Set();
  let top = SHOWN;
  let allSliders = false;
  let passages = new Map(); // row to the nodes of its text, kept while sliders move

  const chooser = textChooser(page);
  const live = data.live ? typedText(page, (text, strengths) => start({ row: -1, text, strengths })) : null;
  const shown = el("div", { class: "query card" });
  const sliders = el("div", { class: "sliders" });
  const adder = topicAdder(page, add);
  const status = el("p", { class: "soft", role: "status" });
  const hits = el("ol", { class: "hits" });
  const more = el("button", { type: "button", onclick: () => { top += SHOWN; rank(); } }, `Show more ${things}`);
  const reset = el("button", { type: "button", onclick: () => start(query.original) }, "Reset all");
  const heading = el("h3", {}, `Most similar ${things}`);
  const root = el("section", { class: "view", "aria-label": `Similar ${things}` },
    el("h2", { tabindex: "-1" }, `Similar ${things}, and why`),
    el("p", { class: "lead" }, `Two ${things} are similar if they are about the same topics. Each topic that they share adds its part to their score, as the coloured bars and the numbers show: ` +
      `a score of 0 means nothing in common, 1 the very same topics. Words from the names of shared topics are marked.`),
    live, chooser.root,
    el("div", { class: "steer" },
      el("div", { class: "panel" },
        shown,
        el("section", { class: "card" }, el("div", { class: "spread" }, el("h3", {}, "What should count"), reset), sliders, adder)),
      el("div", {}, heading, status, hits, more)));

  function start(given) {
    query = { ...given, original: given, strengths: new Map(given.strengths) };
    factors = new Map([...query.strengths.keys()].map((place) => [place, 1]));
    hidden = new Set();
    top = SHOWN;
    allSliders = false;
    passages = new Map();
    fill(shown,
      el("h3", {}, given.row < 0 ? "Your text" : `Chosen ${thing}`),
      given.row < 0 ? excerpt(given.text, new Map(), given.text.length, 260) : entry(page, given.row, new Map(), 260));
    drawSliders();
    rank();
  }

  function add(place) {
    if (!query.strengths.has(place)) {
      const strongest = Math.max(0.3, ...query.strengths.values());
      query.strengths = new Map([[place, strongest], ...query.strengths]);
      factors.set(place, 1);
    }
    drawSliders();
    rank();
    document.getElementById(`slider-${place}`)?.focus();
  }

  const colour = (place) => {
    const at = [...query.strengths.keys()].indexOf(place);
    return at < 0 || at >= COLOURS ? "var(--other)" : `var(--part-${at + 1})`;
  };

  function drawSliders() {
    const places = [...query.strengths.keys()];
    const most = matchMedia("(min-width: 58rem)").matches ? SLIDERS : SLIDERS / 2;
    const some = allSliders ? places : places.slice(0, most);
    const rest = places.length - some.length;
    fill(sliders,
      places.length ? el("p", { class: "soft small" }, `Move a slider, and its topic counts for nothing, less, or up to 4 times as much. “Hide” takes ${things} about it off the list.`) : el("p", {}, `None of the topics here is in this ${query.row < 0 ? "text" : thing}. Add one below.`),
      some.map(slider),
      rest > 0 ? el("button", { type: "button", class: "plain", onclick: () => { allSliders = true; drawSliders(); } }, `Show its ${count(rest, "weaker topic")}`) : null);
  }

  function slider(place) {
    const filled = (factor) => `${25 * factor}%`; // of a slider from 0 to 4
    const said = (factor) => (factor === 0 ? "off" : `× ${factor.toFixed(1)}`);
    const output = el("output", { for: `slider-${place}` }, said(factors.get(place)));
    const input = el("input", {
      id: `slider-${place}`, type: "range", min: "0", max: "4", step: "0.1", value: String(factors.get(place)),
      "aria-valuetext": said(factors.get(place)),
      style: { "--filled": filled(factors.get(place)) },
      oninput: () => {
        factors.set(place, Number(input.value));
        input.style.setProperty("--filled", filled(Number(input.value)));
        output.textContent = said(Number(input.value));
        input.setAttribute("aria-valuetext", output.textContent);
        rank();
      },
    });
    input.value = String(factors.get(place));
    const hide = el("input", {
      type: "checkbox", checked: hidden.has(place),
      onchange: () => { hide.checked ? hidden.add(place) : hidden.delete(place); rank(); },
    });
    return el("div", { class: "slider", style: { "--colour": colour(place) } },
      el("label", { for: `slider-${place}` }, topics.label(place)),
      output, input,
      el("label", { class: "hide" }, hide, el("span", {}, "Hide"), el("span", { class: "sr" }, ` ${things} about ${topics.label(place)}`)));
  }

  function rank() {
    const weights = new Map([...query.strengths].map(([place, strength]) => [place, strength * factors.get(place)]));
    const { found, matches } = ranking.best(weights, hidden, query.row, top);
    const verb = matches === 1 ? "shares" : "share";
    status.textContent = matches
      ? `${count(matches, thing)} ${verb} a topic with it` + (found.length < matches ? `; these ${found.length} are the most similar` : "")
      : `No ${thing} shares a topic that counts. Raise a slider or add a topic.`;
    fill(hits, found.map((hit) => drawn(hit, weights)));
    more.hidden = found.length >= matches;
  }

  // The text of a hit; marked are the words of the topics with the largest shares.
  function passage(row, shares) {
    const named = shares.slice(0, NAMED_SHARES).flatMap(([place]) => data.words[place]);
    return entry(page, row, wordsOf(named.map((word) => [word, "word"])));
  }

  function drawn({ row, score }, weights) {
    const shares = ranking.shares(weights, row);
    const { parts, total } = rounded(shares.map(([, share]) => share));
    if (!passages.has(row)) passages.set(row, passage(row, shares));
    const listed = (from, to) => shares.slice(from, to).map(([place], at) => el("li", { style: { "--colour": colour(place) } },
      topics.link(place), el("span", { class: "number" }, parts[from + at])));
    const rest = shares.length - NAMED_SHARES;
    const corpus = data.corpora.length > 1 ? el("span", { class: "tag" }, data.corpora[page.corpus(row)].label) : null;
    return el("li", { class: "card hit", "data-row": row, "data-score": score },
      el("div", { class: "stack", role: "img", "aria-label": `Score ${total}` },
        shares.map(([place, share]) => el("span", { style: { "flex-grow": share / score, "--colour": colour(place) } })),
      ),
      el("p", { class: "score" }, "Score ", el("strong", {}, total), corpus),
      passages.get(row),
      el("ul", { class: "shares", "aria-label": "Shared topics and their parts of the score" }, listed(0, rest > 1 ? NAMED_SHARES : shares.length)),
      rest > 1 ? weaker(rest, parts, () => listed(NAMED_SHARES)) : null,
      el("p", { class: "under" }, el("a", { href: `#/similar/${row + 1}` }, `Find ${things} like this one`)));
  }

  // The shares after the first ones; their elements are made when they are opened.
  function weaker(rest, parts, listed) {
    const sum = parts.slice(NAMED_SHARES).reduce((all, part) => all + Number(part), 0);
    const list = el("ul", { class: "shares" });
    const open = (event) => event.target.open && !list.firstChild && fill(list, listed());
    return el("details", { ontoggle: open }, el("summary", {}, `${rest} more shared topics, together ${sum.toFixed(3)}`), list);
  }

  function show(number) {
    const row = number === null ? query?.row ?? page.firstRow : number - 1;
    if (row >= 0 && row < ranking.n && query?.row !== row) {
      start({ row, text: data.texts[row], strengths: new Map(ranking.topics(row)) });
      chooser.close();
    }
  }
  return { root, show };
}

// A box that finds texts by the words in them.
function textChooser(page) {
  const { data } = page;
  let lower = null;
  let timer = 0;
  const status = el("p", { class: "soft small", role: "status" });
  const found = el("ul", { class: "choices" });
  const input = el("input", {
    id: "text-search", type: "search", autocomplete: "off", placeholder: "some words",
    oninput: () => { clearTimeout(timer); timer = setTimeout(list, 120); },
  });
  const random = el("button", { type: "button", onclick: () => {
    location.hash = `#/similar/${1 + Math.floor(Math.random() * data.texts.length)}`;
  } }, "Pick one at random");

  function list() {
    const wanted = input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return close();
    lower ??= data.texts.map((text) => text.toLowerCase());
    const rows = [];
    let all = 0;
    lower.forEach((text, row) => {
      if (!wanted.every((word) => text.includes(word))) return;
      if (all++ < 8) rows.push(row);
    });
    status.textContent = all ? `${count(all, thing)} with these words${all > 8 ? "; the first 8:" : ":"}` : `No ${thing} has all these words.`;
    fill(found, rows.map((row) => {
      const text = data.texts[row].trim();
      const end = cutNear(text, 140);
      return el("li", {}, el("a", { href: `#/similar/${row + 1}`, dir: "auto", onclick: close }, picture(data, row, "tiny"), text.slice(0, end) + (end < text.length ? " …" : "")));
    }));
  }

  function close() {
    input.value = "";
    status.textContent = "";
    fill(found);
  }

  const searched = data.texts.some((text) => text.trim()); // images need not have captions
  const root = el("div", { class: "chooser" },
    searched ? el("label", { for: "text-search" }, `Choose ${withArticle(thing)} by words ${thing === "text" ? "in it" : "of its caption"}`) : null,
    el("div", { class: "row" }, searched ? input : null, random), status, found);
  return { root, close };
}

// A box that adds a topic to the query.
function topicAdder(page, add) {
  const found = el("ul", { class: "choices" });
  const input = el("input", {
    id: "topic-add", type: "search", autocomplete: "off", placeholder: "name of a topic",
    oninput: () => {
      const places = input.value.trim() ? page.topics.find(input.value).slice(0, 6) : [];
      fill(found, places.map((place) => el("li", {}, el("button", { type: "button", class: "plain", onclick: () => {
        input.value = "";
        fill(found);
        add(place);
      } }, page.topics.label(place)))));
      if (input.value.trim() && !places.length) fill(found, el("li", { class: "soft small" }, "No such topic."));
    },
  });
  return el("div", { class: "adder" }, el("label", { for: "topic-add" }, "Add a topic that it does not have"), input, found);
}

// The box of a served page: the model describes what is typed. Only this asks anything of a server.
function typedText(page, start) {
  const status = el("p", { class: "soft small", role: "status" });
  const box = el("textarea", { id: "typed", rows: "3", dir: "auto", placeholder: "Type or paste anything" });
  const button = el("button", { type: "submit", class: "main" }, `Find similar ${things}`);
  const form = el("form", { class: "typed card", onsubmit: async (event) => {
    event.preventDefault();
    if (!box.value.trim()) return void (status.textContent = "Type some words first.");
    status.textContent = "Reading …";
    button.disabled = true;
    try {
      const answer = await fetch("encode", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text: box.value }),
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      const strengths = new Map();
      found.latents.forEach((latent, at) => {
        if (page.topics.byLatent.has(latent)) strengths.set(page.topics.byLatent.get(latent), found.values[at]);
      });
      const unknown = found.latents.length - strengths.size;
      status.textContent = unknown ? `${counted.format(unknown)} of its topics ${unknown === 1 ? "is" : "are"} in none of these ${things}.` : "";
      start(box.value, strengths);
    } catch (error) {
      status.textContent = error instanceof TypeError ? "The server does not answer. Is csr-st explore --serve still running?" : error.message;
    } finally {
      button.disabled = false;
    }
  } }, el("label", { for: "typed" }, "Your own text"), box, el("div", { class: "row" }, button, status));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return form;
}
