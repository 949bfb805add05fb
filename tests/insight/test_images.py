"""Latents of images, named by captions."""

import numpy as np
import pytest
import tiny_clip
from PIL import Image
from sentence_transformers import SentenceTransformer

import csr_st


@pytest.mark.filterwarnings("ignore:.*are few for hidden_dim")
def test_latents_of_images_are_named_by_the_words_of_captions(tmp_path, rng):
    """Squares of six colours, slightly different each: their latents are named by the colours."""
    clip = SentenceTransformer(tiny_clip.build(tmp_path / "clip"), device="cpu")
    colours = [tiny_clip.COLOURS[row % 6] for row in range(180)]
    images = []
    for colour in colours:
        pixels = np.asarray(Image.new("RGB", (32, 32), colour), np.int16)
        noisy = np.clip(pixels + rng.integers(-20, 20, pixels.shape), 0, 255)
        images.append(Image.fromarray(noisy.astype(np.uint8)))
    vectors = clip.encode(images)
    store = csr_st.EmbeddingStore.from_array(vectors)
    head = csr_st.train(
        store, csr_st.recipe(k=2, hidden_dim=16, steps=60), show_progress=False
    ).head
    codes = csr_st.encode(csr_st.attach(clip, head), images, k=2)
    names = csr_st.name_latents(codes, [f"a photo of a {colour} square" for colour in colours])
    named = [name for name in names if name.words]
    assert len(named) >= 3
    assert names.median_auc > 0.9
    assert {word for name in named for word in name.words} <= set(tiny_clip.COLOURS)
    for name in named:
        strongest = [colours[row] for row in name.texts]
        assert set(strongest) & set(name.words)
