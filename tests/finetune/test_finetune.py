"""CSRLoss in the real trainer: what is trained, what stays, what a restart finds."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import finetune_runs as runs
import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import recipe
from csr_st.finetune import HEAD_PARAMETERS, CSRLoss, attach_new_head
from csr_st.training.objective import Batch, Objective, Step

SMALL = runs.SMALL


@pytest.fixture
def bert(transformer_folder) -> SentenceTransformer:
    """The tiny BERT with an untrained head of 64 latents."""
    return runs.new_model(transformer_folder)


def features(model, texts):
    return dict(model.preprocess(texts))


def weights(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(before, module) -> set[str]:
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def is_head(name: str) -> bool:
    return name.endswith(("encoder_weight", "decoder_weight", "pre_bias", "latent_bias"))


def test_terms_are_those_of_the_objective(bert):
    """The loss of a frozen backbone's vectors, computed from `Objective` by hand."""
    texts = runs.TEXTS[:12]
    vectors = torch.from_numpy(csr_st.encode_dense(bert, texts))
    labels = torch.arange(12) % 3
    loss = CSRLoss(bert.train(), SMALL)
    terms = loss([features(bert, texts)], labels)
    variance = float((vectors - vectors.mean(dim=0)).square().sum() / 11)
    wanted = Objective(csr_st.find_head(bert), SMALL, variance)(
        Batch(vectors, labels),
        Step(0, torch.zeros(64, dtype=torch.bool), torch.Generator().manual_seed(0)),
    ).terms
    assert set(terms) == set(wanted) >= {"contrast", "supervised"}
    for name, value in wanted.items():
        assert torch.allclose(terms[name], value, atol=1e-5), name


def test_head_alone_leaves_the_backbone_as_it_was(bert, tmp_path):
    before = weights(bert)
    runs.fit(bert, tmp_path, runs.labelled(), steps=3)
    assert changed(before, bert)
    assert all(is_head(name) for name in changed(before, bert))


def test_frozen_backbone_stays_in_eval_mode(bert):
    loss = CSRLoss(bert, SMALL)
    bert.train()
    loss([features(bert, runs.TEXTS[:8])])
    assert not any(m.training for m in bert[0].modules())
    assert csr_st.find_head(bert).training


def test_backbone_is_trained_on_request(bert, tmp_path):
    before = weights(bert)
    runs.fit(bert, tmp_path, runs.labelled(), steps=3, loss={"train_backbone": True})
    moved = changed(before, bert)
    assert any(is_head(name) for name in moved)
    assert any("encoder.layer.0.attention" in name for name in moved)


def test_reconstruction_does_not_reach_a_trained_backbone(bert):
    """Or it would move all vectors together, which lowers every error and separates nothing."""
    only = recipe(
        k=4, ks=(2, 4), hidden_dim=64, contrastive_weight=0.0, distillation_weight=0.0,
        supervised_weight=0.0,
    )  # fmt: skip
    loss = CSRLoss(bert, only, train_backbone=True)
    found = gradients(loss, [features(bert, runs.TEXTS[:8])], None, 1.0)
    assert any(is_head(name) and gradient.any() for name, gradient in found.items())
    assert not any(gradient.any() for name, gradient in found.items() if not is_head(name))


def test_partly_frozen_backbone_must_be_meant(bert):
    next(iter(bert[0].parameters())).requires_grad_(False)
    with pytest.raises(ValueError, match="train_backbone=True"):
        CSRLoss(bert, SMALL)
    CSRLoss(bert, SMALL, train_backbone=True)


COLUMNS = {
    "texts": ({"text": runs.TEXTS}, {"contrast"}),
    "labels": (
        {"text": runs.TEXTS, "label": [i % 4 for i in range(len(runs.TEXTS))]},
        {"contrast", "supervised"},
    ),
    "pairs": (
        {"anchor": runs.TEXTS, "positive": runs.TEXTS[::-1]},
        {"contrast", "pairs"},
    ),
    "scores": (
        {
            "sentence1": runs.TEXTS,
            "sentence2": runs.TEXTS[::-1],
            "score": [i / len(runs.TEXTS) for i in range(len(runs.TEXTS))],
        },
        {"contrast", "pairs"},
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_and_logged_terms(bert, tmp_path, kind):
    data, terms = COLUMNS[kind]
    trainer, _ = runs.fit(bert, tmp_path, Dataset.from_dict(data), steps=2, logging_steps=1)
    record = trainer.state.log_history[0]
    assert terms | {"dead_fraction"} <= set(record)
    other = {"loss", "grad_norm", "learning_rate", "epoch", "step", "dead_fraction"}
    logged = [value for name, value in record.items() if name not in other]
    assert record["loss"] == pytest.approx(sum(logged), abs=1e-3)
    assert ("supervised" in record, "pairs" in record) == (kind == "labels", "pairs" in terms)


def test_columns_that_mean_nothing_here_are_refused(bert):
    loss, batch = CSRLoss(bert, SMALL), features(bert, runs.TEXTS[:4])
    with pytest.raises(ValueError, match="3 columns"):
        loss([batch, batch, batch])
    with pytest.raises(ValueError, match="is a float"):
        loss([batch], torch.rand(4))


def test_mini_batches_of_nothing_are_refused(bert):
    with pytest.raises(ValueError, match="mini_batch_size=0 is below 1"):
        CSRLoss(bert, SMALL, mini_batch_size=0)


def test_model_without_head_is_refused(backbone):
    with pytest.raises(ValueError, match="0 SparseCSRHead"):
        CSRLoss(backbone)


def test_training_lowers_the_unexplained_variance(bert, tmp_path):
    vectors = torch.from_numpy(csr_st.encode_dense(bert, runs.TEXTS))

    def unexplained() -> float:
        head = csr_st.find_head(bert)
        rebuilt = head.decode(*head.encode(vectors, 8)).detach()
        return float(
            (vectors - rebuilt).square().sum() / (vectors - vectors.mean(0)).square().sum()
        )

    before = unexplained()
    runs.fit(bert, tmp_path, runs.labelled().remove_columns("label"), steps=60)
    assert unexplained() < before / 2


def test_k_anneals_with_the_steps_of_the_trainer(bert, tmp_path):
    """k from 8 to 2 over the first 70% of ten steps, by hand: 8 - 6 * step / 7, rounded."""
    config = recipe("csrv2", k=2, initial_k=8, hidden_dim=64)
    trainer, _ = runs.fit(bert, tmp_path, runs.labelled(), config, steps=10, logging_steps=1)
    found = [record["k"] for record in trainer.state.log_history if "k" in record]
    assert found == [8, 7, 6, 5, 5, 4, 3, 2, 2, 2]


def test_annealing_without_a_number_of_steps_is_refused(bert):
    loss = CSRLoss(bert, recipe("csrv2", k=2))
    with pytest.raises(ValueError, match=r"CSRCallback\(loss\)"):
        loss([features(bert, runs.TEXTS[:4])])


def test_latents_age_by_vectors_and_not_in_evaluation(bert):
    loss = CSRLoss(bert, SMALL)
    batch = features(bert, runs.TEXTS[:6])
    codes = csr_st.encode(bert, runs.TEXTS[:6], k=4)
    active = np.unique(codes.indices[codes.values > 0])
    loss([batch])
    loss([batch])
    wanted = np.full(64, 12)
    wanted[active] = 0
    assert loss.age.tolist() == wanted.tolist()
    with torch.no_grad():
        loss([batch])
    assert loss.age.tolist() == wanted.tolist()
    assert loss.step == 2


def test_evaluation_in_the_trainer_changes_no_training(bert, transformer_folder, tmp_path):
    runs.fit(bert, tmp_path / "a", runs.labelled(), steps=4)
    other = runs.new_model(transformer_folder)
    data = runs.labelled()
    trainer, _ = runs.fit(
        other, tmp_path / "b", data, steps=4, eval_dataset=data, eval_strategy="steps", eval_steps=1
    )
    assert any("eval_contrast" in record for record in trainer.state.log_history)
    for name, tensor in weights(bert).items():
        assert torch.equal(tensor, dict(other.named_parameters())[name]), name


@pytest.mark.parametrize("kind", ["nested", "backbone", "csrv2"])
def test_a_run_resumed_in_the_middle_ends_with_the_same_bits(transformer_folder, tmp_path, kind):
    uninterrupted = runs.new_model(transformer_folder)
    _, uninterrupted_loss = runs.fit_kind(kind, uninterrupted, tmp_path / "uninterrupted", steps=8)
    first = runs.new_model(transformer_folder)
    runs.fit_kind(kind, first, tmp_path / "cut", steps=8, stop_at=5)
    assert not (tmp_path / "cut" / "checkpoint-8").exists()
    second = runs.new_model(transformer_folder, seed=9)  # all that counts is in the checkpoint
    trainer, loss = runs.fit_kind(
        kind, second, tmp_path / "cut", steps=8, resume=str(tmp_path / "cut" / "checkpoint-4")
    )
    assert trainer.state.global_step == 8
    for name, tensor in weights(uninterrupted).items():
        assert torch.equal(tensor, dict(second.named_parameters())[name]), name
    assert int(loss.age.max()) > 0
    for name, tensor in uninterrupted_loss.own_parameters().items():
        assert torch.equal(tensor, loss.own_parameters()[name]), name


def test_without_its_file_a_checkpoint_still_resumes(bert, tmp_path, caplog):
    runs.fit_kind("nested", bert, tmp_path, steps=8, stop_at=5)
    (tmp_path / "checkpoint-4" / "csr_loss.safetensors").unlink()
    trainer, _ = runs.fit_kind(
        "nested", bert, tmp_path, steps=8, resume=str(tmp_path / "checkpoint-4")
    )
    assert trainer.state.global_step == 8
    assert "ages start from zero" in caplog.text


def test_gradient_accumulation_counts_batches(bert, tmp_path):
    _, loss = runs.fit(bert, tmp_path, runs.labelled(), steps=3, gradient_accumulation_steps=2)
    assert loss.step == 6
    assert loss.objective.config.steps == 6


def test_trained_model_is_saved_and_loaded(bert, tmp_path):
    runs.fit(bert, tmp_path / "run", runs.labelled(), steps=3, loss={"train_backbone": True})
    bert.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert (again.encode(runs.TEXTS, k=4) == bert.encode(runs.TEXTS, k=4)).all()


def gradients(loss, batch, labels, scale) -> dict[str, torch.Tensor]:
    loss.model.zero_grad()
    loss.step = 0
    terms = loss(batch, labels)
    (torch.stack(list(terms.values())).sum() * scale).backward()
    return {name: p.grad.clone() for name, p in loss.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pairs", [True, False])
def test_mini_batches_give_the_gradient_of_the_whole_batch(bert, pairs):
    first, second = runs.TEXTS[:11], runs.TEXTS[11:22]
    columns = [features(bert, first), features(bert, second)] if pairs else [features(bert, first)]
    labels = None if pairs else torch.arange(11) % 3
    plain = gradients(CSRLoss(bert, SMALL, train_backbone=True), columns, labels, 0.5)
    cached = CSRLoss(bert, SMALL, train_backbone=True, mini_batch_size=4)
    again = gradients(cached, columns, labels, 0.5)
    assert set(plain) == set(again)
    assert any("attention" in name for name in plain)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], rtol=1e-3, atol=1e-6), name


def test_mini_batches_replay_dropout(bert):
    """With dropout on, both passes must draw alike, so the same seed gives the same gradient."""
    bert.train()
    batch = [features(bert, runs.TEXTS[:9])]
    found = []
    for size in (9, 9, 3):
        torch.manual_seed(5)
        loss = CSRLoss(bert, SMALL, train_backbone=True, mini_batch_size=size)
        found.append(gradients(loss, batch, None, 1.0))
    torch.manual_seed(5)
    plain = gradients(CSRLoss(bert, SMALL, train_backbone=True), batch, None, 1.0)
    name = "0.model.encoder.layer.0.attention.self.query.weight"
    name = next(n for n in plain if n.endswith(name.split(".", 2)[2]))
    assert torch.allclose(found[0][name], plain[name], atol=1e-6)
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.allclose(found[0][name], found[2][name], atol=1e-6)  # other masks: other draw


def test_mini_batches_on_a_frozen_backbone(bert):
    batch = [features(bert, runs.TEXTS[:11])]
    plain = CSRLoss(bert, SMALL)(batch)
    parts = CSRLoss(bert, SMALL, mini_batch_size=4)(batch)
    for name, value in plain.items():
        assert torch.allclose(value, parts[name], atol=1e-5)


def test_mini_batches_need_rows(model):
    """A StaticEmbedding's features are one flat list of tokens."""
    loss = CSRLoss(model, SMALL, mini_batch_size=2)
    with pytest.raises(ValueError, match="leave mini_batch_size out"):
        loss([features(model, ["the cat sat", "a dog"])])


def test_untied_decoder_is_trained_too(transformer_folder, tmp_path):
    model = runs.new_model(transformer_folder, tied=False)
    before = weights(model)
    runs.fit(model, tmp_path, runs.labelled(), steps=2)
    assert any(name.endswith("decoder_weight") for name in changed(before, model))
    # The hook that shows it to data-parallel wrappers leaves nothing behind.
    assert "decoder_weight" not in model(features(model, runs.TEXTS[:2]))


def test_maps_of_short_codes_do_not_outlive_fine_tuning(bert):
    head = csr_st.find_head(bert)
    head.short_ks = [2]
    head.short_maps = torch.nn.Parameter(torch.eye(head.input_dim)[None])
    loss = CSRLoss(bert, SMALL)
    with torch.no_grad():
        loss([features(bert, runs.TEXTS[:4])])
    assert head.short_ks == [2]  # neither the loss nor an evaluation changes the head
    assert head.short_maps is not None
    loss([features(bert, runs.TEXTS[:4])])
    assert head.short_ks == []
    assert "short_maps" not in dict(head.named_parameters())


def test_a_head_with_maps_resumes_from_a_checkpoint_without(bert, transformer_folder, tmp_path):
    runs.fit_kind("nested", bert, tmp_path, steps=4, stop_at=3)
    other = runs.new_model(transformer_folder)
    head = csr_st.find_head(other)
    head.short_ks = [2]
    head.short_maps = torch.nn.Parameter(torch.eye(head.input_dim)[None], requires_grad=False)
    trainer, _ = runs.fit_kind(
        "nested", other, tmp_path, steps=4, resume=str(tmp_path / "checkpoint-2")
    )
    assert trainer.state.global_step == 4
    assert head.short_ks == []
    assert "short_maps" not in dict(other.named_parameters())


def test_a_checkpoint_of_version_0_1_gives_the_loss_its_scales(bert, tmp_path):
    runs.fit_kind("nested", bert, tmp_path, steps=4)
    path = tmp_path / "checkpoint-4" / "csr_loss.safetensors"
    # Copies, as the file that they may be mapped from is written again.
    written = {name: tensor.clone() for name, tensor in load_file(path).items()}
    expected = written.pop("logit_scale")
    save_file({**written, "log_sharpness": expected}, path)
    _, loss = runs.fit_kind("nested", bert, tmp_path, steps=4, resume=str(path.parent))
    assert torch.equal(loss.own_parameters()["logit_scale"], expected)


def test_head_has_its_own_learning_rate(bert, tmp_path):
    trainer, loss = runs.fit(
        bert,
        tmp_path,
        runs.labelled(),
        steps=1,
        loss={"train_backbone": True},
        learning_rate=1e-5,
        learning_rate_mapping={HEAD_PARAMETERS: 1e-2},
    )
    head = {id(p) for p in loss.objective.parameters()}
    for group in trainer.optimizer.param_groups:
        for parameter in filter(lambda p: p.requires_grad, group["params"]):
            assert group["initial_lr"] == (1e-2 if id(parameter) in head else 1e-5)


@pytest.mark.parametrize("times", [1, 2])
def test_new_head_has_as_many_latents_as_training_gives_it(transformer_folder, times):
    texts = runs.TEXTS * times
    model = SentenceTransformer(transformer_folder, device="cpu")
    store = csr_st.EmbeddingStore.from_array(model.encode(texts))
    attached = attach_new_head(model, texts, recipe(k=4))
    trained = csr_st.train(store, recipe(k=4, steps=1), show_progress=False)
    assert csr_st.find_head(attached).hidden_dim == trained.head.hidden_dim == 64 * times


def test_new_head_starts_at_the_mean(transformer_folder):
    model = SentenceTransformer(transformer_folder, device="cpu")
    vectors = model.encode(runs.TEXTS)
    attached = attach_new_head(model, runs.TEXTS, recipe(k=4, tied=False))
    head = csr_st.find_head(attached)
    assert np.allclose(head.pre_bias.detach().numpy(), vectors.mean(axis=0), atol=1e-5)
    assert (head.k, head.hidden_dim, head.tied) == (4, 64, False)
    with pytest.raises(ValueError, match="sample is empty"):
        attach_new_head(model, [])


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::UserWarning:transformers")
def test_lora_trains_adapter_and_head_only(bert, tmp_path):
    peft = pytest.importorskip("peft")
    bert.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], lora_dropout=0.0)
    )
    before = weights(bert)
    config = recipe("csrv2", k=2, initial_k=8, hidden_dim=64)
    runs.fit(
        bert, tmp_path / "run", runs.labelled(), config, steps=4, loss={"train_backbone": True}
    )
    moved = changed(before, bert)
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or is_head(name) for name in moved)
    bert.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.allclose(again.encode(runs.TEXTS, k=2), bert.encode(runs.TEXTS, k=2), atol=1e-6)


def test_card_of_the_trainer_names_loss_and_terms(bert, tmp_path):
    runs.fit(bert, tmp_path / "run", runs.labelled(), steps=2, logging_steps=1)
    bert.save_pretrained(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "CSRLoss" in card
    assert "2503.01776" in card


def test_push_to_hub_in_the_arguments_pushes_the_whole_model(bert, tmp_path, monkeypatch):
    import huggingface_hub

    pushed: list[set[str]] = []

    def upload(api, *, folder_path, **kwargs):
        pushed.append({str(p.relative_to(folder_path)) for p in Path(folder_path).rglob("*")})
        return huggingface_hub.CommitInfo(
            commit_url="https://huggingface.co/org/mine/commit/0",
            commit_message="",
            commit_description="",
            oid="0",
        )

    def create(api, repo_id, **kwargs):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    for name, stand_in in {"upload_folder": upload, "create_repo": create}.items():
        monkeypatch.setattr(huggingface_hub.HfApi, name, stand_in)
        # Older transformers import the functions by name.
        plain = partial(stand_in, None)
        monkeypatch.setattr(f"transformers.trainer.{name}", plain, raising=False)
    trainer, _ = runs.fit(
        bert, tmp_path / "run", runs.labelled(), steps=2,
        push_to_hub=True, hub_model_id="org/mine", hub_strategy="end",
    )  # fmt: skip
    trainer.push_to_hub()
    assert {"modules.json", "README.md", "config_sentence_transformers.json"} <= pushed[-1]
    assert any(name.endswith("_SparseCSRHead/model.safetensors") for name in pushed[-1])
    card = (tmp_path / "run" / "README.md").read_text()
    assert huggingface_hub.ModelCard(card).data.library_name == "sentence-transformers"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nested", "untied", "backbone", "cached"])
def test_two_processes_train_as_one(transformer_folder, tmp_path, kind):
    def launch(processes: int) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{processes}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", runs.__file__,
            transformer_folder, str(out), kind,
        ]  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return dict(SentenceTransformer(str(out / "model"), device="cpu").named_parameters())

    one, two = launch(1), launch(2)
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-4), name
