"""Publish a model on the Hugging Face Hub, with a card that shows its quality at every k.

Shows `csr_st.push_to_hub`, which uploads model, card and figures in one commit, and `to_native`,
which writes the same model for users who do not have this package.

    pip install csr-st && hf auth login
    python examples/publish.py my-csr --repo your-name/my-csr
    python examples/publish.py my-csr --repo your-name/my-csr --native my-csr-native

``my-csr`` is a folder written by ``csr-st train`` or examples/train_on_your_corpus.py. Takes
seconds, plus the upload, and prints the address of the commit. Without ``--repo`` nothing is sent:
the script prints the first lines of the card and the size of the files. ``--tiny`` uses an
untrained head on ``--model``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.convert import to_native
from csr_st.finetune import attach_new_head

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--repo", help="your-name/name; without it nothing is sent")
    parser.add_argument("--native", type=Path, help="also write sentence-transformers' own layout")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.folder is None and not options.tiny:
        parser.error("name the folder of a model, or pass --tiny")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "tiny-csr"
        if options.tiny:
            untrained = attach_new_head(SentenceTransformer(options.model), ["the cat", "a dog"])
            csr_st.save(untrained, folder, data="none: an untrained head", license="apache-2.0")
        _publish(folder, options.repo, options.native)


def _publish(folder: Path, repo: str | None, native: Path | None) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    print("\n".join(card.splitlines()[:12]))
    if repo is None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files, {size / 1e6:.1f} MB; pass --repo to publish them")
    else:
        print(f"published: {csr_st.push_to_hub(folder, repo)}")
    if native is not None:
        lost = to_native(SentenceTransformer(str(folder)), native)
        print(f"{native} loads without csr-st. It does not store:")
        print("\n".join(f"- {sentence}" for sentence in lost))


if __name__ == "__main__":
    main()
