// The view of two collections: which topics one uses more than the other.

const DIFFERENCES = 20; // topics on each side

function compareView(page) {
  const { data, topics } = page;
  const [one, other] = data.corpora;
  let listed = DIFFERENCES;
  const places = Array.from({ length: topics.size }, (_, place) => place);
  const shares = places.map((place) => [page.shareIn(place, 0), page.shareIn(place, 1)]);
  // Difference of two shares in standard errors: of the topics with the same difference, those
  // first of which chance explains it least.
  const gap = shares.map(([first, second]) => {
    const all = (first * one.size + second * other.size) / (one.size + other.size);
    const error = Math.sqrt(all * (1 - all) * (1 / one.size + 1 / other.size));
    return error > 0 ? (first - second) / error : 0;
  });
  const columns = el("div", { class: "columns" });
  const more = el("button", { type: "button", onclick: () => { listed += DIFFERENCES; draw(); } }, "Show more topics");

  function draw() {
    const least = 2; // standard errors
    const sides = [1, -1].map((sign) => places.filter((place) => sign * gap[place] > least).sort((a, b) => sign * (gap[b] - gap[a])));
    const most = Math.max(1e-9, ...sides.flatMap((side) => side.slice(0, listed)).flatMap((place) => shares[place]));
    fill(columns, sides.map((side, at) => el("section", {},
      el("h3", {}, "More in ", el("span", { class: `corpus c${at}` }, data.corpora[at].label)),
      side.length ? null : el("p", { class: "soft" }, "None: no difference is larger than chance would make it."),
      el("ol", { class: "differences" }, side.slice(0, listed).map((place) => el("li", {},
        topics.link(place),
        shares[place].map((share, number) => el("div", { class: `line c${number}` },
          el("span", { class: "fill", style: { "--share": share / most } }),
          el("span", { class: "number" }, percent(share), el("span", { class: "sr" }, ` of ${data.corpora[number].label}`))))))))));
    more.hidden = sides.every((side) => side.length <= listed);
  }

  const legend = (number) => {
    const { label, size, images } = data.corpora[number];
    return [el("span", { class: `corpus c${number}` }, label), ` (${count(size, images ? "image" : "text")})`];
  };

  draw();
  const root = el("section", { class: "view", "aria-label": "Two collections" },
    el("h2", { tabindex: "-1" }, "Two collections, topic by topic"),
    el("p", { class: "lead" }, "How much of each collection is about a topic: of ", legend(0), " in the upper bar, of ", legend(1),
      " in the lower one. First come the differences that are least likely to be chance."),
    columns, more);
  return { root, show() {} };
}
