// Which texts have a topic, and the ranking of all texts for a weighted set of topics. The score of
// a text is the sum, over the topics that it shares with the query, of the products of strengths.

class Ranking {
  constructor(data) {
    this.n = data.texts.length;
    this.k = data.k;
    this.places = data.places;
    this.values = data.values;
    const size = data.latents.length;
    this.starts = new Uint32Array(size + 1);
    for (let entry = 0; entry < this.values.length; entry++) {
      if (this.values[entry] > 0) this.starts[this.places[entry] + 1]++;
    }
    for (let place = 0; place < size; place++) this.starts[place + 1] += this.starts[place];
    const next = this.starts.slice();
    this.rows = new Uint32Array(this.starts[size]);
    this.weights = new Float32Array(this.starts[size]);
    for (let entry = 0; entry < this.values.length; entry++) {
      if (!(this.values[entry] > 0)) continue;
      const at = next[this.places[entry]]++;
      this.rows[at] = Math.floor(entry / this.k);
      this.weights[at] = this.values[entry];
    }
    this.scores = new Float64Array(this.n);
  }

  uses(place) {
    return this.starts[place + 1] - this.starts[place];
  }

  // [row, strength] of the texts with a topic, strongest first.
  texts(place) {
    const found = [];
    for (let at = this.starts[place]; at < this.starts[place + 1]; at++) {
      found.push([this.rows[at], this.weights[at]]);
    }
    return found.sort((one, other) => other[1] - one[1] || one[0] - other[0]);
  }

  // [place, strength] of the topics of a text, strongest first.
  topics(row) {
    const found = [];
    for (let at = row * this.k; at < (row + 1) * this.k; at++) {
      if (this.values[at] > 0) found.push([this.places[at], this.values[at]]);
    }
    return found;
  }

  // The best `top` texts. `query`: Map of place to weight; `hidden`: places whose texts are left
  // out; `without`: a row that is left out, the query's own.
  best(query, hidden, without, top) {
    const { starts, rows, weights, scores } = this;
    scores.fill(0);
    for (const [place, weight] of query) {
      if (!weight) continue;
      for (let at = starts[place]; at < starts[place + 1]; at++) scores[rows[at]] += weight * weights[at];
    }
    for (const place of hidden) {
      for (let at = starts[place]; at < starts[place + 1]; at++) scores[rows[at]] = 0;
    }
    if (without >= 0) scores[without] = 0;
    const found = [];
    let matches = 0;
    for (let row = 0; row < this.n; row++) {
      const score = scores[row];
      if (!(score > 0)) continue;
      matches++;
      if (found.length === top && score <= found[top - 1].score) continue;
      let at = Math.min(found.length, top - 1);
      while (at > 0 && found[at - 1].score < score) {
        found[at] = found[at - 1];
        at--;
      }
      found[at] = { row, score };
    }
    return { found, matches };
  }

  // [place, share] of the score of a text, largest first; the shares add up to the score.
  shares(query, row) {
    const found = [];
    for (const [place, strength] of this.topics(row)) {
      const weight = query.get(place);
      if (weight) found.push([place, weight * strength]);
    }
    return found.sort((one, other) => other[1] - one[1]);
  }
}
