"""Texts on made-up topics, and codes whose latents are these topics."""

import numpy as np

from csr_st.codes import SparseCodes

TOPICS = {
    3: ["wing", "lift", "flap"],
    7: ["bread", "flour", "oven"],
    11: ["river", "flood", "dam"],
}
OTHERS = [f"{first}{last}" for first in "bcdfg" for last in ("ola", "emi", "uru", "iko")]


def topic_texts(rng, n=400):
    """(codes, texts): a text of topic t has latent t, and half of the words of t."""
    topics = np.array(list(TOPICS))
    texts, indices = [], []
    for _ in range(n):
        topic = int(rng.choice(topics))
        words = [*rng.choice(TOPICS[topic], 2, replace=False), *rng.choice(OTHERS, 6)]
        texts.append(" ".join(rng.permutation(words)))
        indices.append([topic, int(rng.integers(12, 20))])
    values = rng.uniform(0.5, 1, (n, 2)).astype(np.float32)
    return SparseCodes(np.array(indices), values, 20).normalize(), texts
