"""CSRLoss of a token-level head in the real trainer, and its terms against dense references."""

from __future__ import annotations

import finetune_runs as runs
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseCSRHead, recipe
from csr_st.finetune import CSRLoss, attach_new_head
from csr_st.finetune import tokens as terms
from csr_st.model.token_pooling import Tokens

SMALL = recipe("token", k=16, k_token=3, hidden_dim=48)
PAIRS = {"anchor": runs.TEXTS, "positive": runs.TEXTS[::-1]}
TRIPLETS = {**PAIRS, "negative": runs.TEXTS[3:] + runs.TEXTS[:3]}


@pytest.fixture
def model(transformer_folder) -> SentenceTransformer:
    backbone = SentenceTransformer(transformer_folder, device="cpu")
    head = SparseCSRHead(
        backbone.get_embedding_dimension(), 48, k=16, tied=True, level="token", k_token=3,
        skipped_tokens=sorted(backbone.tokenizer.all_special_ids),
    )  # fmt: skip
    return csr_st.attach(backbone, head)


def features(model, texts):
    return dict(model.preprocess(texts))


@pytest.mark.parametrize("data", [{"text": runs.TEXTS}, PAIRS, TRIPLETS])
@pytest.mark.parametrize("train_backbone", [False, True])
def test_it_trains_what_it_should(model, tmp_path, data, train_backbone):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer, _ = runs.fit(
        model, tmp_path, Dataset.from_dict(data), SMALL, steps=3, logging_steps=1,
        loss={"train_backbone": train_backbone},
    )  # fmt: skip
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.endswith("encoder_weight") for name in moved)
    assert not any(name.endswith("latent_weights") for name in moved)
    # Without pairs only reconstruction is left, which never reaches the backbone.
    reaches = train_backbone and len(data) > 1
    assert any("attention" in name for name in moved) == reaches
    assert ("pairs" in trainer.state.log_history[0]) == (len(data) > 1)
    model.save(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    codes = [csr_st.encode(each, runs.TEXTS).to_dense() for each in (model.eval(), loaded)]
    assert (codes[0] == codes[1]).all()


def test_the_contrast_is_that_of_codes_at_the_drawn_ks(model):
    head = csr_st.find_head(model)
    texts = runs.TEXTS[:6], runs.TEXTS[6:12], runs.TEXTS[12:18]
    with torch.no_grad():
        columns = [head.tokens_of(model[0](features(model, list(part)))) for part in texts]
        found = terms.contrast(head, columns, 0.1, torch.Generator().manual_seed(5))
    draws = torch.Generator().manual_seed(5)
    query_k, document_k = (
        min(ks[int(torch.randint(len(ks), (1,), generator=draws))], 48)
        for ks in (terms.QUERY_KS, terms.DOCUMENT_KS)
    )
    asked = csr_st.encode(model, list(texts[0]), query_k).to_dense()
    keys = csr_st.encode(model, [*texts[1], *texts[2]], document_k).to_dense()
    wanted = F.cross_entropy(torch.from_numpy(asked @ keys.T) / 0.1, torch.arange(6))
    assert float(found) == pytest.approx(float(wanted), abs=1e-5)


def test_pairs_come_nearer(model, tmp_path):
    """Nearer than other texts: the cosine of a pair less the mean of all."""
    data = Dataset.from_dict({"anchor": runs.TEXTS[:16], "positive": runs.TEXTS[31:15:-1]})

    def margin() -> float:
        codes = [csr_st.encode(model.eval(), data[name], 16).to_dense() for name in data.features]
        cosines = codes[0] @ codes[1].T
        return float(cosines.diagonal().mean() - cosines.mean())

    before = margin()
    runs.fit(model, tmp_path, data, SMALL, steps=150, loss={"train_backbone": True})
    assert margin() > before + 0.2


def test_minibatches_of_a_frozen_backbone_give_the_same_terms(model):
    columns = [features(model, runs.TEXTS[:8]), features(model, runs.TEXTS[8:16])]
    whole = CSRLoss(model, SMALL)(columns)
    parts = CSRLoss(model, SMALL, mini_batch_size=3)(columns)
    assert {name: float(x.detach()) for name, x in parts.items()} == pytest.approx(
        {name: float(x.detach()) for name, x in whole.items()}, abs=1e-4
    )


def test_what_does_not_fit_is_refused(model, transformer_folder):
    with pytest.raises(ValueError, match="recipe 'nested' is not for a head with level='token'"):
        CSRLoss(model, recipe())
    with pytest.raises(ValueError, match="does not train a backbone under a token-level head"):
        CSRLoss(model, SMALL, train_backbone=True, mini_batch_size=2)
    column = features(model, runs.TEXTS[:4])
    with pytest.raises(ValueError, match="1 columns of texts and labels; for a token-level head"):
        CSRLoss(model, SMALL)([column], torch.arange(4))
    nothing = Tokens(torch.empty(0, 16), torch.empty(0, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="no text of the batch has a token"):
        terms.sampled([nothing], torch.Generator())
    plain = csr_st.attach(csr_st.detach(model), SparseCSRHead(16, 48, k=4))
    with pytest.raises(ValueError, match="recipe 'token' is not for a head with level='text'"):
        CSRLoss(plain, SMALL)
    backbone = SentenceTransformer(transformer_folder, device="cpu")
    with pytest.raises(ValueError, match=r"begin with the head that csr_st\.train_tokens makes"):
        attach_new_head(backbone, runs.TEXTS, SMALL)
