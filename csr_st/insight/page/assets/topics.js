// The view of topics: a list to search, and one topic with its texts.

const LISTED = 60; // topics at a time
const STRONGEST = 10; // texts of a topic

const ORDERS = {
  used: ["Used most", null],
  named: ["Names that fit best", (page) => (place) => -(page.data.auc[place] ?? -1) + (page.topics.named(place) ? 0 : 2)],
  name: ["Name, A to Z", null],
};

function topicsView(page) {
  const { data, topics, ranking } = page;
  let listed = LISTED;
  let current = null;
  const search = el("input", {
    id: "topic-search", type: "search", autocomplete: "off", spellcheck: "false",
    placeholder: "a word, such as " + exampleWord(page), oninput: () => { listed = LISTED; list(); },
  });
  const order = el("select", { id: "topic-order", onchange: () => list() },
    Object.entries(ORDERS).map(([key, [label]]) => el("option", { value: key }, label)));
  const status = el("p", { class: "soft", role: "status" });
  const items = el("ul", { class: "topics" });
  const more = el("button", { type: "button", onclick: () => { listed += LISTED; list(); } }, "Show more topics");
  const detail = el("article", { class: "detail", "aria-live": "off" });
  const root = el("section", { class: "view split", "aria-label": "Topics" },
    el("div", { class: "aside" },
      el("h2", {}, "Topics"),
      el("label", { for: "topic-search" }, "Find a topic"), search,
      el("div", { class: "row" }, el("label", { for: "topic-order" }, "Order"), order),
      status, items, more),
    detail);

  function ordered(places) {
    if (order.value === "name") {
      const key = places.map((place) => (topics.named(place) ? "0" : "1") + topics.label(place));
      const at = new Map(places.map((place, index) => [place, key[index]]));
      return places.slice().sort((one, other) => at.get(one).localeCompare(at.get(other), undefined, { numeric: true }));
    }
    const by = ORDERS[order.value][1]?.(page);
    return by ? places.slice().sort((one, other) => by(one) - by(other)) : places;
  }

  function list() {
    const found = topics.find(search.value);
    const shown = (search.value.trim() && order.value === "used" ? found : ordered(found)).slice(0, listed);
    const most = Math.max(1, ranking.uses(0));
    fill(items, shown.map((place) => el("li", {},
      topics.link(place, el("span", { class: "use" }, counted.format(ranking.uses(place)),
        el("span", { class: "sr" }, ranking.uses(place) === 1 ? ` ${thing}` : ` ${things}`))),
      el("span", { class: "meter", style: { "--share": String(ranking.uses(place) / most) }, "aria-hidden": "true" }))));
    const all = search.value.trim() ? `${count(found.length, "topic")} with “${search.value.trim()}”` : count(found.length, "topic");
    status.textContent = found.length ? `${all}. The number beside each is how many ${things} are about it` : `No topic has “${search.value.trim()}” in its name. Try a shorter or more general word.`;
    more.hidden = found.length <= shown.length;
    markCurrent();
  }

  function markCurrent() {
    for (const link of items.querySelectorAll("a")) {
      const here = current !== null && link.hash === `#/topic/${data.latents[current]}`;
      if (here) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  function show(place) {
    current = place;
    const words = wordsOf(data.words[place].map((word) => [word, "word"]));
    const texts = ranking.texts(place);
    const name = topics.named(place) ? data.words[place].join(", ") : topics.label(place);
    const strongest = data.corpora.length > 1 ? bothCorpora(texts) : [[null, texts]];
    fill(detail,
      el("p", { class: "back" }, el("a", { href: "#/topics" }, "← All topics")),
      el("h2", { tabindex: "-1", class: topics.named(place) ? "name" : "name unnamed" }, name),
      el("p", { class: "soft" }, usage(place, texts.length)),
      el("p", { class: "soft" }, quality(place)),
      el("div", { class: "pair" },
        el("section", { class: "card" }, el("h3", {}, `How strongly ${things} are about it`), histogram(texts.map(([, value]) => value))),
        el("section", { class: "card" }, el("h3", {}, `Topics often in the same ${things}`), neighbours(place))),
      strongest.map(([label, some]) => el("section", {},
        el("h3", {}, `${capital(things)} most about it${label ? ` in ${label}` : ""}`),
        some.length ? null : el("p", { class: "soft" }, "None."),
        some.length && topics.named(place) ? el("p", { class: "soft small" }, "Words of its name are marked.") : null,
        el("ol", { class: data.noun === "image" ? "texts pictures" : "texts" }, some.slice(0, label ? STRONGEST / 2 : STRONGEST).map(([row, value]) =>
          el("li", { class: "card" },
            entry(page, row, words),
            el("p", { class: "under" }, el("span", {}, `Strength ${value.toFixed(2)}`),
              el("a", { href: `#/similar/${row + 1}` }, `Similar ${things}`))))))));
    markCurrent();
  }

  function bothCorpora(texts) {
    return data.corpora.map((corpus, number) => [corpus.label, texts.filter(([row]) => page.corpus(row) === number)]);
  }

  function usage(place, uses) {
    const parts = data.corpora.length > 1
      ? data.corpora.map((corpus, number) => `${percent(page.shareIn(place, number))} of ${corpus.label}`).join(" and ")
      : `${percent(uses / data.texts.length)} of all`;
    return `Topic number ${data.latents[place]}, found in ${count(uses, thing)}: ${parts}.`;
  }

  function quality(place) {
    const auc = data.auc[place];
    if (!topics.named(place)) {
      return `It has no name, because no words were found that set its ${things} apart from the others. Look at some of them to see what it is.`;
    }
    if (auc === null) return `How well the name fits is not known: there were too few ${things} to test it.`;
    const right = Math.round(100 * auc);
    return `How well the name fits: ${right}%. Of two ${things}, one about this topic and one not, its words alone ` +
      `pick the right one ${right} times in 100. Tossing a coin would 50 times.`;
  }

  function neighbours(place) {
    const near = data.neighbours[place].filter((latent) => topics.byLatent.has(latent));
    if (!near.length) return el("p", { class: "soft" }, "None.");
    return el("ul", { class: "chips" }, near.map((latent) => el("li", {}, topics.link(topics.byLatent.get(latent)))));
  }

  list();
  return {
    root,
    show(latent) {
      const place = latent === null ? null : topics.byLatent.get(latent) ?? null;
      root.classList.toggle("chosen", place !== null);
      if (latent !== null && place === null) {
        root.classList.add("chosen");
        fill(detail, el("h2", { tabindex: "-1" }, `There is no topic ${latent} in these ${things}`),
          el("p", {}, el("a", { href: "#/topics" }, "← All topics")));
        return;
      }
      if (place !== null) show(place);
      else if (current === null && topics.size) show(Math.max(0, data.words.findIndex((words) => words.length)));
    },
  };
}

function exampleWord(page) {
  const place = page.data.words.findIndex((words) => words.length);
  return place < 0 ? "a number" : page.data.words[place][0];
}

// How many of the texts have which strength, as a picture with the same in words.
function histogram(values) {
  const bins = 20;
  const top = Math.max(...values.slice(0, 1), 1e-9); // values fall
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value / top) * bins))]++;
  const most = Math.max(...counts);
  const middle = values[Math.floor(values.length / 2)] ?? 0;
  const said = `${count(values.length, thing)}; each bar counts those of about one strength. Half are above ${middle.toFixed(2)}, the strongest has ${top.toFixed(2)}. ${capital(withArticle(thing))} about nothing else would have 1.`;
  const bars = counts.map((number, bin) => {
    const height = number ? Math.max(1.5, (60 * number) / most) : 0;
    return el("rect", { x: bin * 10 + 0.75, y: 60 - height, width: 8.5, height, rx: 1 },
      el("title", {}, `${count(number, thing)} from ${((bin * top) / bins).toFixed(2)} to ${(((bin + 1) * top) / bins).toFixed(2)}`));
  });
  return [
    el("svg", { class: "histogram", viewBox: "0 0 200 62", role: "img", "aria-label": said, preserveAspectRatio: "none" },
      bars, el("line", { x1: 0, x2: 200, y1: 60.5, y2: 60.5 })),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "0, barely"), el("span", {}, `${top.toFixed(2)}, most`)),
    el("p", { class: "soft small" }, said),
  ];
}
