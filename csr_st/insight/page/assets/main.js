// The page: what all views use, the introduction, the way from an address to a view, the theme.

const VIEWS = [
  ["topics", () => "Topics", topicsView],
  ["similar", () => `Similar ${things}`, similarView],
  ["map", () => "Map", mapView],
  ["compare", () => "Two collections", compareView],
];
const THEMES = ["auto", "light", "dark"];

function pageOf(data) {
  const topics = new Topics(data);
  const ranking = new Ranking(data);
  const boundary = data.corpora[0].size;
  const corpus = (row) => (row < boundary ? 0 : 1);
  return {
    data, topics, ranking, corpus,
    isImage: (row) => data.corpora[corpus(row)].images,
    length: (row) => data.lengths[row] ?? data.texts[row].length,
    firstRow: Math.max(0, data.texts.findIndex((text) => text.trim().length > 40)),
    shareIn(place, number) {
      let uses = 0;
      for (let at = ranking.starts[place]; at < ranking.starts[place + 1]; at++) uses += corpus(ranking.rows[at]) === number;
      return uses / Math.max(1, data.corpora[number].size);
    },
  };
}

function introduction({ data, topics }) {
  const named = data.words.filter((words) => words.length).length;
  const all = data.corpora.map((one) => `${count(one.size, one.images ? "image" : "text")} from ${one.label}`).join(" and ");
  const images = data.noun !== "text";
  return el("section", { class: "intro", "aria-label": "What this is" },
    el("h1", {}, images ? `What do these ${things} show?` : "What are these texts about?"),
    el("p", {}, `An AI model has ${images ? "looked at" : "read"} ${all}. For each one it noted the few topics that it is about: at most ${data.k}, of ${counted.format(topics.size)} in all. `,
      `Nobody wrote this list of topics; the model found them by itself. A topic is named by words that are typical of the ${images ? "captions of the images" : "texts"} about it.`),
    el("details", {},
      el("summary", {}, "What can I do here, and how far can I trust it?"),
      el("ul", {},
        el("li", {}, el("b", {}, "Topics"), `: look up a topic, and see the ${things} that are most about it. Its name is only a hint; the ${things} tell more.`),
        el("li", {}, el("b", {}, `Similar ${things}`), `: choose ${withArticle(thing)}, and see which others are most like it, and exactly why. Then say what should count more, less, or not at all.`),
        el("li", {}, el("b", {}, "Map"), ": all topics in one picture, those of similar meaning side by side."),
        data.corpora.length > 1 ? el("li", {}, el("b", {}, "Two collections"), ": what the one is about more often than the other.") : null),
      el("p", {}, `${counted.format(named)} of the ${counted.format(topics.size)} topics have a name. Names are found by comparing how often words are used, and then tested on ${things} that had no part in finding them. A topic whose name failed the test is shown without one.`),
      el("p", {}, `The model can be wrong about the topics of ${withArticle(thing)}, and so about which ${things} are similar. The reasons shown for a score are exact: it is calculated from them and from nothing else.`),
      images ? el("p", {}, pictured(data)) : null,
      el("p", {}, "This page was written by the program csr-st. In its documentation a topic is called a latent, and has the same number. ",
        data.live ? "What you type goes to the program on your own computer that serves this page, and nowhere else." : "Everything is inside this one file; it sends nothing anywhere.")));
}

// How many images have a picture here, where it is not all of them.
function pictured(data) {
  const shown = Object.keys(data.pictures).length;
  const all = data.corpora.reduce((sum, one) => sum + (one.images ? one.size : 0), 0);
  if (shown === all) return "The images are inside this page as small pictures.";
  return `This page has room for ${counted.format(data.room / 1e6)} MB of small pictures: they are of ${counted.format(shown)} of the ${count(all, "image")}, ` +
    `first of those that are most about a topic. The others are here without a picture.`;
}

function setTheme(theme) {
  const button = document.getElementById("theme");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = { auto: "Light or dark: as the system", light: "Light", dark: "Dark" }[theme];
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}. Press to change.`);
  button.replaceChildren(el("span", { "aria-hidden": "true" }, { auto: "◐", light: "☀", dark: "☾" }[theme]));
  button.title = button.getAttribute("aria-label");
  button.onclick = () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  document.dispatchEvent(new Event("theme"));
}

function addressed() {
  const [, name, number] = location.hash.split("/");
  const given = number !== undefined && /^\d+$/.test(number) ? Number(number) : null;
  return { name: name === "topic" ? "topics" : name, given };
}

function main(data) {
  callThem(data.noun);
  const page = pageOf(data);
  const content = document.getElementById("content");
  const wanted = VIEWS.filter(([name]) => name !== "compare" || data.corpora.length > 1);
  const made = new Map();
  const links = wanted.map(([name, label]) => el("a", { href: `#/${name}` }, label()));
  document.getElementById("views").append(...links);
  const intro = introduction(page);
  content.replaceChildren(intro);
  document.getElementById("footer").append(data.footer);

  function route(event) {
    const { name, given } = addressed();
    const [shown, , make] = wanted.find(([one]) => one === name) ?? wanted[0];
    if (!made.has(shown)) {
      made.set(shown, make(page));
      content.append(made.get(shown).root);
    }
    for (const [one, view] of made) view.root.hidden = one !== shown;
    wanted.forEach(([one], at) => {
      if (one === shown) links[at].setAttribute("aria-current", "page");
      else links[at].removeAttribute("aria-current");
    });
    made.get(shown).show(given);
    intro.hidden = shown !== wanted[0][0];
    intro.classList.toggle("passed", given !== null);
    if (event) focusOn(made.get(shown).root, given !== null);
  }

  // After a link inside the page: to what is new, for the keyboard and for a screen reader.
  function focusOn(root, detailed) {
    const heading = (detailed && root.querySelector(".detail h2")) || root.querySelector("h2");
    heading.setAttribute("tabindex", "-1");
    heading.focus({ preventScroll: true });
    const above = heading.getBoundingClientRect().top;
    if (above < 60 || above > window.innerHeight * 0.6) heading.scrollIntoView({ block: "start" });
  }

  window.addEventListener("hashchange", route);
  route(null);
  document.documentElement.dataset.ready = "true";
}

setTheme("auto");
unpacked().then(main).catch((error) => {
  document.getElementById("loading").textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old for this page; please use one from 2023 or later."
    : `This file is damaged and cannot be shown (${error.message}). Please write it again.`;
  throw error;
});
