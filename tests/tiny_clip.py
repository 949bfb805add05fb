"""A CLIP of 16 dimensions with random weights, from the real transformers classes; no download.

Only for trying out the plumbing: it knows nothing of pictures or words.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = ["[PAD]", "[UNK]", "<s>", "</s>"]
COLOURS = ["red", "green", "blue", "white", "black", "yellow"]
WORDS = ["a", "photo", "of", "square", *COLOURS]


def build(folder: str | Path, seed: int = 0) -> str:
    """Save the model to a folder that `SentenceTransformer` loads, and give its name."""
    torch.manual_seed(seed)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment] # settable, though not typed so
    ends = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    words.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)  # type: ignore[assignment] # as above
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=12,
    )
    side = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    text = {**side, **ids, "vocab_size": len(vocabulary), "max_position_embeddings": 12}
    vision = {**side, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    build(sys.argv[1])
