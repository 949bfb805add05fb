"""mteb on saved models: unmodified, at each k; and its figures on the card. Tasks are made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from datasets import Dataset
from hub_stand_in import HubStandIn
from sentence_transformers import SentenceTransformer, SparseEncoder

import csr_st
from csr_st.evaluation.metrics import ndcg_at
from csr_st.evaluation.mteb_tasks import TaskFigures, evaluate_tasks
from csr_st.publishing.facts import CardFacts

mteb = pytest.importorskip("mteb")
retrieval = pytest.importorskip("mteb.abstasks.retrieval")
loaders = pytest.importorskip("mteb.abstasks.retrieval_dataset_loaders")
classification = pytest.importorskip("mteb.abstasks.classification")

# mteb warns of models without prompts and of names that are not on the Hub
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::DeprecationWarning",
    "ignore:The `get_sentence_embedding_dimension` method:FutureWarning",  # mteb calls it
)

_RNG = np.random.default_rng(11)
DOCUMENTS = [" ".join(_RNG.choice(WORDS, 6)) for _ in range(60)]
QUERIES = [" ".join(_RNG.choice(WORDS, 4)) for _ in range(15)]
RELEVANT = [{int(row): 1 for row in _RNG.choice(60, 4, replace=False)} for _ in QUERIES]
KS = (8, 24, 64)  # at fewer, some of the ten best have a score of 0, and mteb orders ties otherwise


def about(name: str, kind: str, main_score: str):
    return mteb.TaskMetadata(
        name=name,
        description="Made here.",
        dataset={"path": f"local/{name.lower()}", "revision": "1"},
        type=kind,
        category="t2t" if kind == "Retrieval" else "t2c",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=("2024-01-01", "2024-01-02"),
        domains=["Written"],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        reference=None,
        bibtex_citation="",
    )


class LocalRetrieval(retrieval.AbsTaskRetrieval):
    metadata = about("LocalRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, *args, **kwargs):
        ids = [f"d{row}" for row in range(len(DOCUMENTS))]
        asked = [f"q{row}" for row in range(len(QUERIES))]
        corpus = {"id": ids, "text": DOCUMENTS, "title": [""] * len(ids)}
        relevant = {
            query: {f"d{row}": gain for row, gain in gains.items()}
            for query, gains in zip(asked, RELEVANT, strict=True)
        }
        data = loaders.RetrievalSplitData(
            corpus=Dataset.from_dict(corpus),
            queries=Dataset.from_dict({"id": asked, "text": QUERIES}),
            relevant_docs=relevant,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


class LocalClassification(classification.AbsTaskClassification):
    metadata = about("LocalClassification", "Classification", "accuracy")
    samples_per_label = 8
    n_experiments = 2

    def load_data(self, *args, **kwargs):
        labels = [int("cat" in text) for text in DOCUMENTS]
        rows = Dataset.from_dict({"text": DOCUMENTS, "label": labels})
        self.dataset = {"train": rows, "test": rows}
        self.data_loaded = True


def ndcg_by_hand(model, k: int) -> float:
    """nDCG@10 of exact search, with queries and documents at k and the prompts of their roles."""
    documents = csr_st.encode(model, DOCUMENTS, k=k, role="document").to_dense()
    queries = csr_st.encode(model, QUERIES, k=k, role="query").to_dense()
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    return float(ndcg_at(order, RELEVANT, 10))


def score(result) -> float:
    return result.task_results[0].get_score()


@pytest.mark.parametrize("k", KS)
def test_a_saved_model_is_evaluated_at_k_without_change(saved, k):
    model = SentenceTransformer(saved, device="cpu")
    found = score(mteb.evaluate(model, LocalRetrieval(), encode_kwargs={"k": k}, cache=None))
    assert found == pytest.approx(ndcg_by_hand(model, k), abs=1e-4)


def test_a_sparse_encoder_is_evaluated_by_mtebs_own_wrapper(saved):
    """mteb takes a `SparseEncoder` by itself, whose name for k is max_active_dims."""
    model = SparseEncoder(saved, device="cpu")
    options = {"max_active_dims": 8}
    found = score(mteb.evaluate(model, LocalRetrieval(), encode_kwargs=options, cache=None))
    plain = SentenceTransformer(saved, device="cpu")
    assert found == pytest.approx(ndcg_by_hand(plain, 8), abs=1e-4)


def test_evaluate_tasks_gives_what_mteb_gives_at_each_k(saved):
    model = SentenceTransformer(saved, device="cpu")
    tasks = [LocalRetrieval(), LocalClassification()]
    found = evaluate_tasks(model, tasks, KS)
    assert [one.task for one in found] == ["LocalRetrieval", "LocalClassification"]
    assert [one.metric for one in found] == ["ndcg_at_10", "accuracy"]
    for task, figures in zip(tasks, found, strict=True):
        plain = mteb.evaluate(csr_st.detach(model), task, cache=None)
        assert figures.dense == pytest.approx(score(plain), abs=1e-6)
        assert tuple(figures.by_k) == KS
        for k, figure in figures.by_k.items():
            plain = mteb.evaluate(model, task, encode_kwargs={"k": k}, cache=None)
            assert figure == pytest.approx(score(plain), abs=1e-4), (task, k)


def test_texts_are_encoded_once_for_all_k(saved, monkeypatch):
    model = SentenceTransformer(saved, device="cpu")
    texts = []
    preprocess = model.preprocess
    monkeypatch.setattr(
        model, "preprocess", lambda rows, *a, **kw: texts.extend(rows) or preprocess(rows, *a, **kw)
    )
    evaluate_tasks(model, [LocalRetrieval()], KS)
    assert len(texts) == 2 * (len(DOCUMENTS) + len(QUERIES))  # for dense vectors, and for codes


@pytest.mark.parametrize("level", ["float8_e4m3fn", "float16"])
def test_compression_levels_that_keep_zeros(saved, level):
    """Those that give each latent a range of its own, such as int8, make zeros non-zero."""
    model = mteb.models.SentenceTransformerEncoderWrapper(SentenceTransformer(saved, device="cpu"))
    wanted = score(mteb.evaluate(model, LocalRetrieval(), encode_kwargs={"k": 8}, cache=None))
    wrapped = mteb.models.CompressionWrapper(model, mteb.types.OutputDType(level))
    found = score(mteb.evaluate(wrapped, LocalRetrieval(), encode_kwargs={"k": 8}, cache=None))
    assert found == pytest.approx(wanted, abs=0.05)


def test_command_prints_figures_and_puts_them_on_the_card(model, tmp_path, run, monkeypatch):
    csr_st.save(model, tmp_path / "my-csr")
    known = {"LocalRetrieval": LocalRetrieval, "LocalClassification": LocalClassification}
    monkeypatch.setattr("mteb.get_task", lambda name: known[name]())
    code, out, err = run("evaluate", "my-csr", "--mteb", *known, "--output", "my-csr")
    assert code == 0, err
    facts = CardFacts.load(tmp_path / "my-csr")
    assert [one.task for one in facts.mteb] == list(known)
    by_k = facts.mteb[0].by_k
    assert by_k[8] == pytest.approx(ndcg_by_hand(model, 8), abs=1e-4)
    assert f"LocalRetrieval (ndcg_at_10)  dense: {100 * facts.mteb[0].dense:.1f}" in out
    card = (tmp_path / "my-csr" / "README.md").read_text()
    assert "### On tasks of MTEB" in card
    row = next(line for line in card.splitlines() if line.startswith("| LocalRetrieval |"))
    cells = [cell.strip() for cell in row.split("|")][3:-1]
    assert cells == [
        "ndcg_at_10",
        *(f"{100 * x:.1f}" for x in (facts.mteb[0].dense, *by_k.values())),
    ]
    assert "name: MTEB LocalRetrieval" in card  # in the metadata
    # Measured again, a task keeps one line.
    assert run("evaluate", "my-csr", "--mteb", "LocalRetrieval", "--output", "my-csr")[0] == 0
    again = CardFacts.load(tmp_path / "my-csr")
    assert again.mteb == facts.mteb


def test_command_refuses_what_does_not_fit(model, tmp_path, run):
    csr_st.save(model, tmp_path / "my-csr")
    for arguments, line in (
        (["NoSuchTask"], "mteb has no task 'NoSuchTask'"),
        (["STS12", "--words"], "--words: tasks of mteb have their own data"),
        (["STS12", "--split", "dev"], "--split: tasks of mteb"),
        (["STS12", "--output", "elsewhere"], "--output elsewhere has no csr_card.json"),
    ):
        code, _, err = run("evaluate", "my-csr", "--mteb", *arguments)
        assert code == 1
        assert line in err


def test_facts_without_tasks_are_as_before(model, tmp_path):
    csr_st.save(model, tmp_path / "my-csr")
    assert "mteb" not in json.loads((tmp_path / "my-csr" / "csr_card.json").read_text())
    with pytest.raises(TypeError, match="numbers"):
        TaskFigures("a", "Retrieval", "b", "c", "high", {8: 0.5})  # type: ignore[arg-type]


COMMAND = """
import sys
import huggingface_hub  # before conftest takes it off line
sys.path[:0] = sys.argv[1:3]
import csr_st, mteb, test_mteb
from mteb.cli.build_cli import main
mteb.get_tasks = lambda **_: [test_mteb.LocalRetrieval()]
sys.argv = ["mteb", "run", "-m", sys.argv[3], "-t", "LocalRetrieval", "--output-folder", "out"]
main()
"""


@pytest.mark.slow
def test_mteb_run_takes_the_id_of_a_published_model(token_model, tmp_path):
    """mteb's own command, in a process that imported csr_st; the task is one of this file.

    Without that import sentence-transformers asks for trust_remote_code, which the command cannot
    pass on (mteb's issue 1651); folders it does not take at all.
    """
    csr_st.save(token_model, tmp_path / "model")
    files = {
        path.relative_to(tmp_path / "model").as_posix(): path.read_bytes()
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    tests = Path(__file__).parents[1]
    with HubStandIn() as hub:
        hub.add("someone/tiny-csr", files)
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
        }
        arguments = [str(tests), str(tests / "evaluation"), "someone/tiny-csr"]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "out").rglob("LocalRetrieval.json")
    (scores,) = json.loads(found.read_text())["scores"]["test"]
    assert scores["main_score"] == pytest.approx(ndcg_by_hand(token_model, 8), abs=1e-4)
