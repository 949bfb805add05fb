"""Make the models whose cards are beside this file, as `csr-st train` does, and copy the cards.

    python hub_cards/make.py intents train.tsv --output models
    python hub_cards/make.py fashion-mnist /usr/share/datasets/fashion-mnist --output models

The first takes the training part of CLINC150 (https://huggingface.co/datasets/clinc_oos) as lines
of label, tab and text; the second the files that `apt-get install dataset-fashion-mnist` installs,
of which it uses the first 20,000 training images. Each takes some minutes on one core.
Beyond what `csr-st train` does it states what only a person knows: the data's source and licence.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset

from csr_st import EmbeddingStore, recipe
from csr_st.demo.run import HUB_ID, load_backbone
from csr_st.publishing.files import CARD_NAME
from csr_st.publishing.model_card import EVALUATION_NAME, FACTS_NAME, PICTURE_NAME
from csr_st.workflow import Trained, train_model, train_vectors

IMAGES = 20_000


def intents(source: Path, output: Path) -> Trained:
    """MiniLM with a head that learns from the labels of short requests."""
    rows = [line.split("\t", 1) for line in source.read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_dict({"label": [row[0] for row in rows], "text": [row[1] for row in rows]})
    return train_model(
        load_backbone(),
        data,
        output / "all-MiniLM-L6-v2-intents-csr",
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


def fashion_mnist(source: Path, output: Path) -> Trained:
    """A head on the pixels of images, which needs no backbone; labels only measure it."""
    pixels = read(source / "train-images-idx3-ubyte.gz", 16, IMAGES * 784).reshape(IMAGES, 784)
    labels = read(source / "train-labels-idx1-ubyte.gz", 8, IMAGES)
    store = EmbeddingStore.from_array(pixels.astype(np.float32) / 255, labels=labels)
    return train_vectors(
        store,
        output / "fashion-mnist-csr",
        recipe(steps=1000, hidden_dim=3136, supervised_weight=0.0),
        data_name="Fashion-MNIST, pixels of 20,000 training images",
        facts={
            "data": "the pixels (28 x 28, within 0..1) of the first 20,000 training images of "
            "Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist, MIT)",
            "license": "mit",
        },
    )


def read(path: Path, header: int, count: int) -> np.ndarray:
    """The first bytes behind the header of a compressed file of MNIST's form."""
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, np.uint8, count=count, offset=header)


def copy_card(folder: Path) -> None:
    """What the card is made of, to a folder beside this file."""
    here = Path(__file__).parent / folder.name
    here.mkdir(exist_ok=True)
    for name in (CARD_NAME, FACTS_NAME, EVALUATION_NAME, PICTURE_NAME):
        shutil.copyfile(folder / name, here / name)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", choices=("intents", "fashion-mnist"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path("models"))
    given = parser.parse_args()
    make = intents if given.model == "intents" else fashion_mnist
    copy_card(make(given.source, given.output).path)


if __name__ == "__main__":
    main()
