// The view of the map: every topic is a dot, and topics that mean similar things lie near each other.

const LARGEST_ZOOM = 24;
const HINT = "Click or tap a dot to see what it is. Zoom with the mouse wheel, two fingers or the buttons, and drag to move.";

function mapView(page) {
  const { data, topics, ranking } = page;
  const canvas = el("canvas", {
    tabindex: "0", role: "application",
    "aria-label": "Map of topics. Arrow keys go to the nearest topic, Enter opens it, plus and minus zoom, zero shows all.",
  });
  const tip = el("div", { class: "tip", hidden: true, dir: "auto" });
  const chosen = el("p", { class: "chosen-topic soft", "aria-live": "polite" }, HINT);
  const search = el("input", { id: "map-search", type: "search", autocomplete: "off", oninput: () => { highlight(); draw(); } });
  const status = el("span", { class: "soft small", role: "status" });
  const zoomers = [["+", "Zoom in", () => zoom(1.6)], ["−", "Zoom out", () => zoom(1 / 1.6)], ["All", "Show all", () => { Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 }); inside(); draw(); }]]
    .map(([sign, label, act]) => el("button", { type: "button", "aria-label": label, title: label, onclick: act }, sign));
  const root = el("section", { class: "view", "aria-label": "Map" },
    el("h2", { tabindex: "-1" }, "Map of topics"),
    el("p", { class: "lead" }, `Each dot is a topic; the larger, the more ${things} are about it. Dots that lie close together have similar meanings. Up, down, left, right and colours mean nothing by themselves. Hollow dots are topics without a name.`),
    el("div", { class: "row wrap" }, el("label", { for: "map-search" }, "Mark topics with the word"), search, status),
    chosen,
    el("div", { class: "map" }, canvas, tip, el("div", { class: "zoomers" }, zoomers)));

  const most = Math.sqrt(Math.max(1, ranking.uses(0)));
  const view = { x: 0.5, y: 0.5, zoom: 1 };
  let size = { width: 0, height: 0 };
  let current = null;
  let matching = null; // Set of places, or null for all
  let colours = {};

  const scale = () => ({ x: (size.width - 60) * view.zoom, y: (size.height - 50) * view.zoom });
  const atX = (place) => size.width / 2 + (data.x[place] - view.x) * scale().x;
  const atY = (place) => size.height / 2 + (data.y[place] - view.y) * scale().y;
  const radius = (place) => (1.6 + 5 * (Math.sqrt(ranking.uses(place)) / most)) * Math.min(1.8, view.zoom ** 0.35) * (size.width < 600 ? 0.75 : 1);

  function highlight() {
    const typed = search.value.trim();
    matching = typed ? new Set(topics.find(typed)) : null;
    status.textContent = matching ? count(matching.size, "topic") : "";
  }

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    colours = { ink: read("--ink"), soft: read("--soft"), card: read("--card"), accent: read("--accent"), lightness: read("--dot"), font: getComputedStyle(document.body).fontFamily };
  }

  const hue = (place) => (Math.atan2(data.y[place] - 0.5, data.x[place] - 0.5) * 180) / Math.PI + 180;

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    size = { width: canvas.clientWidth, height: canvas.clientHeight };
    if (!size.width) return;
    canvas.width = Math.round(size.width * ratio);
    canvas.height = Math.round(size.height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    for (let place = topics.size - 1; place >= 0; place--) dot(pen, place);
    if (current !== null) ring(pen, current);
    labels(pen);
  }

  function dot(pen, place) {
    const faded = matching && !matching.has(place);
    pen.beginPath();
    pen.arc(atX(place), atY(place), radius(place), 0, 7);
    pen.globalAlpha = faded ? 0.12 : 0.75;
    const colour = matching && !faded ? colours.accent : `oklch(${colours.lightness} 0.11 ${hue(place)})`;
    if (topics.named(place)) {
      pen.fillStyle = colour;
      pen.fill();
    } else {
      pen.strokeStyle = colours.soft;
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  function ring(pen, place) {
    pen.beginPath();
    pen.arc(atX(place), atY(place), radius(place) + 4, 0, 7);
    pen.lineWidth = 2;
    pen.strokeStyle = colours.ink;
    pen.stroke();
    pen.lineWidth = 1;
  }

  // Names of the topics used most, where they fit without covering each other.
  function labels(pen) {
    const taken = [[size.width - 150, 0, size.width, 46]]; // the buttons
    const order = matching ? [...matching] : Array.from({ length: topics.size }, (_, place) => place);
    if (current !== null) order.unshift(current);
    const room = Math.min(140, (size.width * size.height) / 7000);
    pen.font = `${size.width < 600 ? 11 : 12.5}px ${colours.font}`;
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    for (const place of order) {
      if (taken.length > room) break;
      if (!topics.named(place) && place !== current) continue;
      const name = place === current ? topics.label(place) : data.words[place].slice(0, 2).join(", ");
      const width = pen.measureText(name).width;
      const gap = radius(place) + 4;
      const right = atX(place) + gap;
      const x = right + width + 4 > size.width ? atX(place) - gap - width : right;
      const y = atY(place);
      if (x < 2 || y < 8 || y > size.height - 8 || atX(place) > size.width) continue;
      const box = [x - 3, y - 8, x + width + 3, y + 8];
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      pen.lineWidth = 3;
      pen.strokeStyle = colours.card;
      pen.strokeText(name, x, y);
      pen.fillStyle = colours.ink;
      pen.fillText(name, x, y);
    }
    pen.lineWidth = 1;
  }

  function nearest(x, y, reach, accept = () => true) {
    let best = null;
    let least = reach ** 2;
    for (let place = 0; place < topics.size; place++) {
      if ((matching && !matching.has(place)) || !accept(place)) continue;
      const distance = (atX(place) - x) ** 2 + (atY(place) - y) ** 2;
      if (distance < least) [best, least] = [place, distance];
    }
    return best;
  }

  function choose(place, follow) {
    current = place;
    fill(chosen, place === null ? HINT : [topics.link(place), ` – in ${count(ranking.uses(place), thing)}`]);
    if (follow && place !== null) {
      const margin = 30;
      const outside = atX(place) < margin || atX(place) > size.width - margin || atY(place) < margin || atY(place) > size.height - margin;
      if (outside) Object.assign(view, { x: data.x[place], y: data.y[place] });
    }
    draw();
  }

  function zoom(factor, x = size.width / 2, y = size.height / 2) {
    const before = scale();
    const point = { x: view.x + (x - size.width / 2) / before.x, y: view.y + (y - size.height / 2) / before.y };
    view.zoom = Math.min(LARGEST_ZOOM, Math.max(1, view.zoom * factor));
    const after = scale();
    view.x = point.x - (x - size.width / 2) / after.x;
    view.y = point.y - (y - size.height / 2) / after.y;
    inside();
    draw();
  }

  function inside() {
    canvas.dataset.zoom = view.zoom.toFixed(2);
    const half = 0.5 / view.zoom;
    for (const axis of ["x", "y"]) view[axis] = Math.min(1 - half, Math.max(half, view[axis]));
    // Where all is shown one finger scrolls the page; two always zoom the map.
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-x pan-y";
  }

  // From the chosen topic to the nearest one in a direction, within 45 degrees of it.
  function step(dx, dy) {
    if (current === null) return choose(nearest(size.width / 2, size.height / 2, 1e9), true);
    const [x, y] = [atX(current), atY(current)];
    const ahead = (place) => {
      const along = (atX(place) - x) * dx + (atY(place) - y) * dy;
      const across = Math.abs((atX(place) - x) * dy) + Math.abs((atY(place) - y) * dx);
      return place !== current && along > 0 && across <= along;
    };
    const next = nearest(x, y, 1e9, ahead);
    if (next !== null) choose(next, true);
  }

  const open = (place) => { location.hash = `#/topic/${data.latents[place]}`; };
  const KEYS = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: () => zoomers[2].click(),
    Enter: () => current !== null && open(current),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  let drag = null;
  const fingers = new Map(); // pointer to its place, while it touches the map
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  // Distance and middle of two fingers.
  function pinched() {
    const [one, other] = [...fingers.values()];
    return { apart: Math.hypot(one[0] - other[0], one[1] - other[1]), middle: [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2] };
  }

  function pinch(event) {
    const before = pinched();
    fingers.set(event.pointerId, at(event));
    const { apart, middle } = pinched();
    view.x -= (middle[0] - before.middle[0]) / scale().x;
    view.y -= (middle[1] - before.middle[1]) / scale().y;
    zoom(apart / Math.max(1, before.apart), ...middle);
  }

  function lift(event) {
    fingers.delete(event.pointerId);
    if (fingers.size && drag) Object.assign(drag, { from: [...fingers.values()][0], view: { ...view } });
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") fingers.set(event.pointerId, at(event));
    if (fingers.size < 2) drag = { from: at(event), view: { ...view }, moved: false };
    else drag.moved = true;
    tip.hidden = true;
  });
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointermove", (event) => {
    if (fingers.size === 2 && fingers.has(event.pointerId)) return pinch(event);
    const [x, y] = at(event);
    if (drag && event.buttons) {
      drag.moved ||= Math.hypot(x - drag.from[0], y - drag.from[1]) > 4;
      if (drag.moved && view.zoom > 1) {
        canvas.setPointerCapture(event.pointerId);
        view.x = drag.view.x - (x - drag.from[0]) / scale().x;
        view.y = drag.view.y - (y - drag.from[1]) / scale().y;
        inside();
        draw();
      }
      return;
    }
    const place = nearest(x, y, 14);
    tip.hidden = place === null;
    canvas.style.cursor = place === null ? (view.zoom > 1 ? "grab" : "default") : "pointer";
    if (place !== null) {
      tip.textContent = `${topics.label(place)} · ${count(ranking.uses(place), thing)}`;
      tip.style.transform = `translate(${Math.min(x + 12, size.width - tip.offsetWidth - 8)}px, ${Math.max(0, y - 38)}px)`;
    }
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    const [x, y] = at(event);
    if (!drag?.moved) choose(nearest(x, y, 20), false);
  });
  canvas.addEventListener("dblclick", (event) => {
    const place = nearest(...at(event), 20);
    if (place !== null) open(place);
  });
  canvas.addEventListener("wheel", (event) => {
    if (view.zoom === 1 && event.deltaY > 0) return; // nothing to zoom out of: the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });
  new ResizeObserver(() => draw()).observe(canvas);

  inside();
  const recolour = () => { readColours(); draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  document.addEventListener("theme", recolour);
  return { root, show: recolour };
}
