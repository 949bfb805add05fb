// What the page holds: texts, codes, topics. It is unpacked once; nothing is fetched.

function fromBase64(packed) {
  const binary = atob(packed);
  const bytes = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
  return bytes;
}

async function unpacked() {
  const bytes = fromBase64(document.getElementById("data").textContent.trim());
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const found = JSON.parse(await new Response(stream).text());
  const numbers = (packed, type) => new type(fromBase64(packed).buffer);
  found.places = numbers(found.places, found.latents.length > 65536 ? Uint32Array : Uint16Array);
  found.values = numbers(found.values, Float32Array);
  found.x = numbers(found.x, Float32Array);
  found.y = numbers(found.y, Float32Array);
  return found;
}

// A topic is what the package calls a latent; its place is its rank by use.
class Topics {
  constructor(data) {
    this.data = data;
    this.size = data.latents.length;
    this.byLatent = new Map(data.latents.map((latent, place) => [latent, place]));
    this.lower = data.words.map((words) => words.join(", ").toLowerCase());
  }

  named(place) {
    return this.data.words[place].length > 0;
  }

  label(place) {
    return this.data.words[place].slice(0, 3).join(", ") || `topic ${this.data.latents[place]} (no name)`;
  }

  // Places of topics whose words, or number, contain what was typed; those that begin so first.
  find(typed) {
    const wanted = typed.trim().toLowerCase();
    const places = Array.from({ length: this.size }, (_, place) => place);
    if (!wanted) return places;
    const rank = (place) => {
      if (String(this.data.latents[place]) === wanted) return 0;
      const words = this.data.words[place].map((word) => word.toLowerCase());
      if (words.includes(wanted)) return 1;
      if (words.some((word) => word.startsWith(wanted))) return 2;
      return this.lower[place].includes(wanted) ? 3 : 4;
    };
    const ranks = places.map(rank);
    return places.filter((place) => ranks[place] < 4).sort((one, other) => ranks[one] - ranks[other] || one - other);
  }

  link(place, ...more) {
    const named = this.named(place);
    return el("a", { href: `#/topic/${this.data.latents[place]}`, class: named ? "topic" : "topic unnamed" }, this.label(place), ...more);
  }
}
