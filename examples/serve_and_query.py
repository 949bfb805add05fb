"""Serve a model and its index over HTTP, for clients in any programming language.

Shows ``csr_st.serving.create_app``, the app that ``csr-st serve`` runs and that can be mounted in a
FastAPI app of yours: codes in the form of text-embeddings-inference, searches with reasons. The
corpus is the documentation in the Python packages on your machine.

    pip install "csr-st[serve,search]"
    python examples/serve_and_query.py

About two minutes on two CPU cores after a download of 90 MB. The script prints the first latents of
a query's code and the best documents with the two latents that count most. ``--tiny`` runs on 64
made-up sentences in a few seconds; ``--model`` names another model.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import uvicorn
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather
from csr_st.serving import create_app

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
    texts = TINY if options.tiny else [entry.document for entry in gather(1000)]
    query = "the dog ran under a tree" if options.tiny else QUERY
    settings = csr_st.recipe(k=8, hidden_dim=48, steps=40) if options.tiny else csr_st.recipe(k=32)
    vectors = backbone.encode(texts, show_progress_bar=not options.tiny)
    store = csr_st.EmbeddingStore.from_array(vectors)
    head = csr_st.train(store, settings, show_progress=not options.tiny).head
    model = csr_st.attach(backbone, head)
    index = csr_st.SparseIndex.build(csr_st.encode(model, texts, role="document"))

    # Here in a thread, for one script. From a shell: csr-st serve my-csr --index documents.index
    app = create_app(model, index, texts)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    (code,) = post(f"{url}/embed_sparse", inputs=query, k=4, role="query")
    print(f"{query!r}: " + ", ".join(f"{one['index']} ({one['value']:.2f})" for one in code))
    (found,) = post(f"{url}/search", query=query, top_k=3, explain=True)["results"]
    for hit in found["hits"]:
        shares = hit["explanation"]["latents"][:2]
        reasons = ", ".join(f"{one['label']} {one['share']:.2f}" for one in shares)
        print(f"  {hit['score']:.2f}  {hit['text'][:60].splitlines()[0]}  ({reasons})")

    server.should_exit = True
    thread.join()


def post(url: str, **content: Any) -> Any:
    """The answer to a request."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - on this machine
        return json.load(answer)


if __name__ == "__main__":
    main()
