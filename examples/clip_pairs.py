"""Train one sparse head for CLIP's images and texts, on pairs of image and caption.

Shows a head with a mean for each modality, trained with a contrastive loss in both directions.
Captions then find images in one exact index, by their codes and by rescoring through the decoder.

    pip install "csr-st[search]" pillow torchvision
    python examples/clip_pairs.py captions --columns image,caption --output clip-csr

``captions`` is a data set with a column of images and a column of texts: a folder that `datasets`
saved, a .parquet file or a Hub id. Rows with a corrupt image or without a caption are left out and
reported. The script prints recall@1, 5 and 10 in both directions, and the unexplained variance of
each modality. ``--tiny`` runs every step in about ten seconds, on coloured squares and a small CLIP
with random weights, whose figures mean nothing; ``--model`` names another model.

The default model is sentence-transformers/clip-ViT-B-32. It was not run with this script, because
its weights could not be downloaded: there are no figures for its quality or its time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import data
from csr_st.evaluation.cross_modal import shift_of

MODEL = "sentence-transformers/clip-ViT-B-32"
COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


def tiny_pairs(n: int = 60) -> Dataset:
    """Squares of one colour, with captions."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(n)]
    images = [Image.new("RGB", (32 + i % 9, 32 + i % 7), c) for i, c in enumerate(colours)]
    captions = [f"a photo of a {colour} square" for colour in colours]
    return Dataset.from_dict({"image": images, "caption": captions})


def tiny_clip(folder: str | Path) -> str:
    """A CLIP of 16 dimensions with random weights, from transformers' own classes, in a folder."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "<s>", "</s>"]
    words = [*special, "a", "photo", "of", "square", *COLOURS]
    rules: Any = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    rules.pre_tokenizer = Whitespace()
    rules.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, model_max_length=12, **names)  # type: ignore[no-untyped-call] # untyped in transformers
    side = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**side, **ids, "vocab_size": len(words), "max_position_embeddings": 12}
    vision = {**side, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop)
    processor: Any = CLIPProcessor(image_processor=images, tokenizer=tokenizer)  # type: ignore[no-untyped-call] # as above
    processor.save_pretrained(folder)
    return str(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="?", help="data set with a column of images and one of text")
    parser.add_argument("--columns", default="image,caption")
    parser.add_argument("--output", type=Path, default=Path("clip-csr"))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.pairs is None and not options.tiny:
        parser.error("name a data set, or pass --tiny")
    first, second = options.columns.split(",")
    rows = tiny_pairs() if options.tiny else data.load(options.pairs)
    rows = data.without_bad(rows, [first, second])
    settings = csr_st.recipe(k=8, ks=(4, 8), hidden_dim=48, steps=40) if options.tiny else None
    with tempfile.TemporaryDirectory() as folder:
        model = SentenceTransformer(tiny_clip(folder) if options.tiny else options.model)
    trained = csr_st.train_model(
        model,
        rows,
        options.output,
        settings,
        data_name="coloured squares" if options.tiny else Path(options.pairs).name,
        base_model=None if options.tiny else options.model,
        pair_columns=(first, second),
    )
    assert trained.sides is not None, f"neither {first} nor {second} contains images"
    print(trained.sides.table())

    # The folder is complete: any other program can load it.
    model = SentenceTransformer(str(options.output))
    sample = rows.select(range(min(1000, len(rows))))
    head = csr_st.find_head(model)
    images = csr_st.encode(model, data.column(sample, first), k=8)
    index = csr_st.SparseIndex.build(images, decoder=csr_st.Decoder.from_head(head))
    captions = data.column(sample, second)[:3]
    queries = csr_st.encode(model, captions, k=8)
    hits = index.search(queries, top_k=3)
    # Images are decoded about the mean of both modalities, so subtract the mean of texts.
    dense = csr_st.encode_dense(model, captions) - shift_of(head, "text")
    rescored = index.search(queries, top_k=3, rescore=min(200, len(index)), queries_dense=dense)
    for caption, found, again in zip(captions, hits.ids, rescored.ids, strict=True):
        print(f"{caption}: images {_listed(found)}; rescored {_listed(again)}")


def _listed(rows: NDArray[Any]) -> str:
    return ", ".join(map(str, rows))


if __name__ == "__main__":
    main()
