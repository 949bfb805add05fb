"""Make the models whose cards lie beside this file, as `csr-st train` does, and copy the cards.

    python hub_cards/make.py intents train.tsv --output models
    python hub_cards/make.py fashion-mnist /usr/share/datasets/fashion-mnist --output models

The first takes the training part of CLINC150 (https://huggingface.co/datasets/clinc_oos) as lines
of label, tab and text; the second the files that `apt-get install dataset-fashion-mnist` installs,
of which it uses the first 10,000 training images. Each takes some minutes on one core.
Beyond `csr-st train` it states what only a person knows (the data's source and licence) and times
a search.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from csr_st import EmbeddingStore, recipe
from csr_st._files import write_atomically
from csr_st.demo.run import HUB_ID, load_backbone
from csr_st.hub_files import CARD_NAME, rendered
from csr_st.model_card import EVALUATION_NAME, FACTS_NAME, PICTURE_NAME, CardFacts
from csr_st.search_time import search_time
from csr_st.workflow import HELD_OUT, Trained, train_model, train_vectors

IMAGES = 10_000


def intents(source: Path, output: Path) -> tuple[Trained, EmbeddingStore]:
    """MiniLM with a head that learns from the labels of short requests."""
    rows = [line.split("\t", 1) for line in source.read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_dict({"label": [row[0] for row in rows], "text": [row[1] for row in rows]})
    folder = output / "all-MiniLM-L6-v2-intents-csr"
    made = train_model(
        load_backbone(),
        data,
        folder,
        recipe(steps=200, hidden_dim=1536),
        data_name="CLINC150 intents",
        base_model=HUB_ID,
        facts={
            "data": "CLINC150 intents, with their labels "
            "(https://huggingface.co/datasets/clinc_oos, CC BY 3.0)",
            "datasets": ["clinc_oos"],
            "license": "apache-2.0",
            "language": ["en"],
        },
        text_column="text",
        label_column="label",
    )
    return made, EmbeddingStore.open(folder / "vectors")


def fashion_mnist(source: Path, output: Path) -> tuple[Trained, EmbeddingStore]:
    """A head on the pixels of images, which needs no backbone; labels are not used."""
    content = gzip.decompress((source / "train-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, count=IMAGES * 784, offset=16).reshape(IMAGES, 784)
    store = EmbeddingStore.from_array(images.astype(np.float32) / 255)
    made = train_vectors(
        store,
        output / "fashion-mnist-csr",
        recipe(steps=300, hidden_dim=1568),
        data_name="Fashion-MNIST, pixels of 10,000 training images",
        facts={
            "data": "the pixels (28 x 28, within 0..1) of the first 10,000 training images of "
            "Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist, MIT)",
            "license": "mit",
        },
    )
    return made, store


def finish(made: Trained, store: EmbeddingStore) -> None:
    """Time a search, write the card again with it, and copy what the card is made of."""
    training, held_out = store.split(round(HELD_OUT * len(store)))
    timed = search_time(made.result.head, training.vectors(), held_out.vectors())
    replace(CardFacts.load(made.path), search=timed).save(made.path)
    write_atomically(made.path / CARD_NAME, rendered(made.path))
    here = Path(__file__).parent / made.path.name
    here.mkdir(exist_ok=True)
    for name in (CARD_NAME, FACTS_NAME, EVALUATION_NAME, PICTURE_NAME):
        shutil.copyfile(made.path / name, here / name)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=("intents", "fashion-mnist"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path("models"))
    given = parser.parse_args()
    make = intents if given.model == "intents" else fashion_mnist
    finish(*make(given.source, given.output))


if __name__ == "__main__":
    main()
