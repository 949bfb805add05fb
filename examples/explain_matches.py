"""Name latents by the words of texts, say why two texts match, and steer a search.

Shows names without a language model, each with a score on texts that took no part in naming; the
exact shares that make up the score of a hit, with the words that carry them; and a search with
more of one latent and none of another. The corpus is the documentation in the Python packages on
your machine.

    pip install "csr-st[search]"
    python examples/explain_matches.py

About five minutes on two CPU cores after a download of 90 MB. The script prints the ten most used
latents with their names, the shares of the best hit of a query, and the hits before and after
steering. ``--tiny`` runs on 64 made-up sentences in a few seconds; ``--model`` names another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUERY = "copy a folder and everything in it"
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    backbone = SentenceTransformer(options.model)
    texts = TINY if options.tiny else [entry.document for entry in gather(3000)]
    query = "the dog ran under a tree" if options.tiny else QUERY
    settings = csr_st.recipe(k=8, hidden_dim=48, steps=40) if options.tiny else csr_st.recipe(k=32)

    vectors = backbone.encode(texts, show_progress_bar=not options.tiny)
    store = csr_st.EmbeddingStore.from_array(vectors)
    head = csr_st.train(store, settings, show_progress=not options.tiny).head
    model = csr_st.attach(backbone, head)
    codes = csr_st.encode(model, texts, k=settings.k, role="document")

    # Each latent gets the words that tell its texts from the others. The AUC is measured on texts
    # that were set aside; a latent whose words do no better than chance stays unnamed.
    names = csr_st.name_latents(codes, texts)
    print(names)
    print(names.table())

    # The shares of the latents add up to the score.
    index = csr_st.SparseIndex.build(codes)
    asked = csr_st.encode(model, [query], k=min(4 * settings.k, head.hidden_dim), role="query")
    found = index.search(asked, top_k=3)
    best = int(found.ids[0, 0])
    explanation = csr_st.explain(
        asked, codes[best], names, model=model, query_text=query, document_text=texts[best]
    )
    print(f"\n{query!r} and {texts[best][:70].splitlines()[0]!r}:")
    print(explanation.table(5))

    # Without the latent that has the largest share, and with three times as much of the second.
    first, second, *_ = explanation.latents
    steered = index.search(asked, top_k=3, boost={first.latent: 0, second.latent: 3.0})
    print(f"\nwithout {first.label!r}, and with more of {second.label!r}:")
    for title, results in (("before", found), ("after", steered)):
        for row, score in zip(results.ids[0], results.scores[0], strict=True):
            print(f"  {title:6}  {score:.2f}  {texts[row][:70].splitlines()[0]}")

    # Names hold words and no texts: csr_st.save(model, "my-csr", names=names) adds them to a card.
    names.save("latents.json")


if __name__ == "__main__":
    main()
