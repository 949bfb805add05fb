"""Make the models whose cards are beside this file, as `csr-st train` does, and copy the cards.

    python hub_cards/make.py intents train.tsv --output models
    python hub_cards/make.py fashion-mnist /usr/share/datasets/fashion-mnist --output models
    python hub_cards/make.py tokens --output models
    python hub_cards/make.py general --limit 3000000 --output models

The first takes the training part of CLINC150 (https://huggingface.co/datasets/clinc_oos) as lines
of label, tab and text; the second the files that `apt-get install dataset-fashion-mnist` installs,
of which it uses the first 20,000 training images. The third is a head of tokens, for docstrings of
the installed packages. Each takes some minutes on one core. The fourth is a head for texts of any
kind: it streams `GENERAL` from the Hub, and needs a GPU for the embedding.
Beyond what `csr-st train` does it states what only a person knows: the data's source and licence.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from csr_st import EmbeddingStore, mix, recipe
from csr_st.cli import main as run_command
from csr_st.demo.corpus import Entry, gather
from csr_st.demo.run import HUB_ID, load_backbone
from csr_st.publishing.facts import FACTS_NAME
from csr_st.publishing.files import CARD_NAME
from csr_st.publishing.model_card import EVALUATION_NAME, PICTURE_NAME
from csr_st.workflow import Trained, train_model, train_vectors

IMAGES = 20_000
DOCSTRINGS = 7_500


class Source(NamedTuple):
    """A public data set and its share of a general head's texts.

    Attributes:
        name: As `csr_st.mix` takes it.
        weight: Its share.
        kind: What its texts are.
        license: Licence that its card, or else its publisher, states.
    """

    name: str
    weight: float
    kind: str
    license: str


# English texts of many kinds and lengths, under licences that permit training; none of the sets
# that tests/benchmarks asks about. Two columns of one data set are two sources.
GENERAL = (
    Source("HuggingFaceFW/fineweb-edu:config=sample-10BT,column=text", 0.25, "web pages", "ODC-By"),
    Source(
        "wikimedia/wikipedia:config=20231101.en,column=text", 0.15, "encyclopedia", "CC BY-SA 3.0"
    ),
    Source(
        "sentence-transformers/gooaq:config=pair,column=question", 0.15, "questions", "Apache-2.0"
    ),
    Source("sentence-transformers/gooaq:config=pair,column=answer", 0.1, "answers", "Apache-2.0"),
    Source("gfissore/arxiv-abstracts-2021:column=abstract", 0.15, "abstracts", "CC0"),
    Source("abisee/cnn_dailymail:config=3.0.0,column=highlights", 0.05, "news", "Apache-2.0"),
    Source("fancyzhx/amazon_polarity:column=content", 0.1, "product reviews", "Apache-2.0"),
    Source(
        "sentence-transformers/codesearchnet:config=pair,column=comment",
        0.05,
        "comments of code",
        "open-source licences of the repositories",
    ),
)


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


def tokens(output: Path) -> Trained:
    """MiniLM with a head whose codes are pooled from those of a text's tokens.

    Its card also has what the first lines of docstrings find.
    """
    entries = gather(DOCSTRINGS)
    made = train_model(
        load_backbone(),
        [entry.document for entry in entries],
        output / "all-MiniLM-L6-v2-tokens-csr",
        recipe("token", steps=1500),
        data_name=f"{DOCSTRINGS:,} docstrings of installed Python packages",
        base_model=HUB_ID,
        facts={
            "data": f"{DOCSTRINGS:,} docstrings of installed Python packages, without their first "
            "lines (the licences of the packages)",
            "license": "apache-2.0",
            "language": ["en"],
        },
    )
    asked = output / "docstrings"
    write_beir(entries, asked)
    run_command(["evaluate", str(made.path), str(asked), "--output", str(made.path)])
    return made


def write_beir(entries: Sequence[Entry], folder: Path, n_queries: int = 1000) -> None:
    """Docstrings in BEIR's form; the first line of each of ``n_queries`` asks for the rest."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    chosen = np.random.default_rng(0).permutation(len(entries))[:n_queries].tolist()
    corpus = ({"_id": f"d{row}", "text": entry.document} for row, entry in enumerate(entries))
    queries = ({"_id": f"q{row}", "text": entries[row].summary} for row in chosen)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = "".join(f"q{row}\td{row}\t1\n" for row in chosen)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def general(
    output: Path, limit: int, sources: Sequence[Source] = GENERAL, hidden_dim: int = 3072
) -> Trained:
    """MiniLM with a head for texts that it has not seen, trained on a mixture of public data."""
    mixture = mix(
        [source.name for source in sources],
        [source.weight for source in sources],
        limit=limit,
        skip_bad=True,
    )
    kinds = "; ".join(f"{source.kind} ({source.license})" for source in sources)
    return train_model(
        load_backbone(),
        mixture,
        output / "all-MiniLM-L6-v2-general-csr",
        recipe("general", hidden_dim=hidden_dim),
        base_model=HUB_ID,
        batch_size=256,
        resume=True,
        facts={
            "data": f"{mixture.name}: {kinds}",
            "license": "apache-2.0",
            "language": ["en"],
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
    parser.add_argument("model", choices=("intents", "fashion-mnist", "tokens", "general"))
    parser.add_argument("source", type=Path, nargs="?", help="of the first two")
    parser.add_argument("--output", type=Path, default=Path("models"))
    parser.add_argument("--limit", type=int, default=3_000_000, help="of general: texts in all")
    given = parser.parse_args()
    if (given.source is None) != (given.model in ("tokens", "general")):
        parser.error("intents and fashion-mnist need a source, tokens and general have none")
    if given.model == "general":
        made = general(given.output, given.limit)
    elif given.model == "tokens":
        made = tokens(given.output)
    else:
        make = intents if given.model == "intents" else fashion_mnist
        made = make(given.source, given.output)
    copy_card(made.path)


if __name__ == "__main__":
    main()
