"""The card: its metadata, its figures, its code, and what edits leave of it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

import csr_st
from csr_st.data.mixing import Share
from csr_st.evaluation.latency import SearchTime, search_time
from csr_st.evaluation.results import Evaluation
from csr_st.evaluation.tuning import Tuning
from csr_st.publishing.facts import FACTS_NAME, CardFacts, OtherTexts
from csr_st.publishing.model_card import (
    END,
    START,
    is_ours,
    merged,
    render,
)


@pytest.fixture
def facts():
    return CardFacts(
        model_id="org/mini-csr",
        base_model="sentence-transformers/all-MiniLM-L6-v2",
        input_dim=16,
        hidden_dim=64,
        k=8,
        license="apache-2.0",
        language=["en", "fr"],
        datasets=["org/questions"],
        data="org/questions",
        training=asdict(csr_st.recipe(k=8)),
        seconds=200.0,
    )


@pytest.fixture
def evaluation():
    """Figures made up by hand, so that the card can be checked against them."""
    ks = (4, 8)
    methods = ("symmetric", "query_4k", "rescored", "pca", "truncation")
    rows = {m: {k: (k + i) / 20 for k in ks} for i, m in enumerate(methods)}
    return Evaluation(
        ks=ks,
        n_documents=12345,
        n_queries=678,
        input_dim=16,
        hidden_dim=64,
        rescore=200,
        fvu={4: 0.5, 8: 0.25},
        dead_fraction={4: 0.125, 8: 0.0},
        bytes_per_item={4: 16, 8: 28},
        dense_bytes_per_item=64,
        dense={"recall@10": 1.0, "ndcg@10": 0.6},
        scores={"recall@10": rows, "ndcg@10": rows},
        about={"data": "questions held out"},
    )


@pytest.fixture
def travelled(facts, evaluation):
    """Facts of a head that was trained on a mixture and measured on other texts."""
    return replace(
        facts,
        data="a mixture of 2 data sets",
        mixture=[
            Share("org/web", 300, 0.75, "train", "text", "en", on_hub=True),
            Share("a|b\n.jsonl", 100, 0.25, column="body"),
        ],
        fvu={4: 0.4, 8: 0.2},
        others=[
            replace(OtherTexts.of(evaluation), data="scifact", fvu={4: 0.9, 8: 0.7}),
            OtherTexts("docs", 50, 40, "recall@5", 1.0, {2: 0.25, 8: 0.5}, {2: 0.8, 8: 0.3}),
        ],
    )


def save(facts, folder):
    (folder / "csr_card.json").write_text(facts.to_json())


def code_blocks(text, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_metadata_is_what_the_hub_reads(facts, evaluation):
    card = ModelCard(render(facts, evaluation))
    data = card.data
    assert data.library_name == "sentence-transformers"
    assert {"sentence-transformers", "csr", "sparse"} <= set(data.tags)
    assert data.pipeline_tag == "sentence-similarity"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.base_model_relation == "adapter"
    assert data.license == "apache-2.0"
    assert data.language == ["en", "fr"]
    assert data.datasets == ["org/questions"]
    header = data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(header)
    assert name == "mini-csr"
    found = {(r.metric_type, r.metric_name): r.metric_value for r in results}
    assert len(found) == 2 * 3 * 2  # metrics, scorings of codes, k
    assert found["ndcg_at_10", "nDCG@10, k=8, rescored through the decoder"] == 0.5
    assert found["recall_at_10", "Recall@10 of the dense neighbours, k=4, sparse, query at k"] == (
        0.2
    )
    assert {r.dataset_type for r in results} == {"org/questions"}


def test_base_model_that_is_no_hub_id_is_named_but_not_linked(facts):
    card = ModelCard(render(replace(facts, base_model="my-folder")))
    assert card.data.get("base_model") is None
    assert card.data.get("base_model_relation") is None
    assert "The embedding model `my-folder` with a sparse" in card.text
    assert "huggingface.co/my-folder" not in card.text


def test_figures_are_in_the_card_as_measured(facts, evaluation):
    text = render(facts, evaluation)
    assert evaluation.table("ndcg@10") in text
    assert evaluation.table("recall@10") in text
    assert "12,345 documents,\n678 queries" in text
    assert "**At k=8 a document takes 28 bytes where the dense vector takes 64" in text
    assert "nDCG@10 is 50.0 where the dense vector has 60.0** (rescored through" in text
    assert "| unexplained variance (FVU) | 50.0% | 25.0% |" in text
    assert "in 3 minutes" in text
    assert "| ks | 2, 4, 8, 16, 32, 64 |" in text


def test_search_time_is_as_measured_and_its_extrapolation_says_so(facts, evaluation):
    timed = SearchTime(0.125, n_documents=10_000, n_queries=200, k=8, query_k=32)
    text = " ".join(render(replace(facts, search=timed), evaluation).split())
    assert "0.12 ms for one query over 10,000 documents at k=8, the query at 32" in text
    assert "an extrapolation and not measured, 12 ms for a million documents" in text
    whole = replace(timed, n_documents=1_000_000)
    assert "extrapolation" not in render(replace(facts, search=whole), evaluation)
    assert "Search time" not in render(facts, evaluation)


def test_search_time_is_measured_on_the_vectors_given(model):
    vectors = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    timed = search_time(csr_st.find_head(model), vectors, vectors[:7])
    assert (timed.n_documents, timed.n_queries) == (30, 7)
    assert timed.query_k == min(4 * timed.k, 64)
    assert timed.milliseconds > 0


def test_search_time_survives_its_json_and_is_left_out_where_not_measured(facts, tmp_path):
    save(facts, tmp_path)
    assert "search" not in json.loads((tmp_path / "csr_card.json").read_text())
    timed = replace(facts, search=SearchTime(0.5, 100, 10, 8, 32))
    save(timed, tmp_path)
    assert CardFacts.load(tmp_path).search == timed.search


@pytest.mark.parametrize("search", [7, {"k": 1}, {"milliseconds": "{{ 1 }}"}])
def test_search_time_that_is_damaged_is_refused(facts, tmp_path, search):
    content = {**asdict(facts), "search": search}
    if isinstance(search, dict) and "milliseconds" in search:
        content["search"] = {**asdict(SearchTime(0.5, 100, 10, 8, 32)), **search}
    (tmp_path / "csr_card.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no readable csr_card\.json.*search|SearchTime"):
        CardFacts.load(tmp_path)


def test_the_same_json_gives_the_same_card(facts, evaluation, tmp_path):
    save(facts, tmp_path)
    evaluation.save(tmp_path / "evaluation.json")
    again = render(CardFacts.load(tmp_path), Evaluation.load(tmp_path / "evaluation.json"))
    assert again == render(facts, evaluation)


def test_picture_is_shown_only_where_there_is_one(facts, evaluation):
    assert "![Quality against k](quality.png)" in render(facts, evaluation)
    assert "quality.png" not in render(facts, evaluation, picture=False)
    assert "quality.png" not in render(facts)


def test_card_without_figures_says_how_to_get_them(facts):
    text = render(facts)
    assert "Not measured yet. `csr-st evaluate FOLDER DATA --output FOLDER`" in text
    assert ModelCard(text).data.get("eval_results") is None


@pytest.fixture
def of_tokens(facts):
    """Facts of a token-level head."""
    return replace(facts, level="token", training=asdict(csr_st.recipe("token", k=8)))


@pytest.mark.parametrize("with_figures", [True, False])
@pytest.mark.parametrize("kind", ["facts", "travelled", "of_tokens"])
@pytest.mark.parametrize("changes", [{}, {"license": None, "training": {}, "data": ""}])
def test_layout_is_sound_markdown(request, kind, evaluation, with_figures, changes):
    facts = request.getfixturevalue(kind)
    text = ModelCard(render(replace(facts, **changes), evaluation if with_figures else None)).text
    assert "\n\n\n" not in text
    assert "{{" not in text
    assert "None" not in text
    assert text.count("```") % 2 == 0
    for line in text.splitlines():  # a heading or a table needs an empty line before it
        if line.startswith(("## ", "### ")):
            assert f"\n\n{line}\n\n" in text
    rows = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for table in rows:
        assert f"\n\n{table}" in text
        assert len({line.replace(r"\|", "").count("|") for line in table.splitlines()}) == 1


def test_figures_on_other_texts_are_one_line_a_corpus(travelled, evaluation):
    held_out = replace(evaluation, about={"data": "held-out rows of a mixture of 2 data sets"})
    text = render(travelled, held_out)
    own, other = (
        text.index(f"### On {kind}") for kind in ("texts like its training data", "other texts")
    )
    assert own < text.index("Measured on held-out rows of a mixture") < other
    assert "20.0% of the variance is unexplained at k=8" in text
    table = text[other : text.index("## Training")]
    assert (
        "| corpus | measure | documents | dense | k=2 | k=4 | k=8 | unexplained variance at k=8"
        in (table)
    )
    assert "| scifact | nDCG@10 | 12,345 | 60.0 |  | 25.0 | 45.0 | 70.0% |" in table
    name = "Recall@5 of the dense neighbours"
    assert f"| docs | {name} | 50 | 100.0 | 25.0 |  | 50.0 | 30.0% |" in table
    assert "dense vector has 60.0** (rescored through the decoder, on texts like its" in text
    _, results = model_index_to_eval_results(ModelCard(text).data.to_dict()["model-index"])
    found = {(r.dataset_name, r.metric_name): r.metric_value for r in results}
    assert found["scifact", "nDCG@10, k=8, sparse, query at 4k"] == 0.45
    assert found["docs", f"{name}, k=2, sparse, query at 4k"] == 0.25


@pytest.fixture
def with_words(evaluation):
    rows = {
        "codes_and_words": {4: 0.61, 8: 0.65},
        "words": {4: 0.55, 8: 0.55},
        "dense_and_words": {4: 0.66, 8: 0.66},
    }
    scores = {**evaluation.scores, "ndcg@10": {**evaluation.scores["ndcg@10"], **rows}}
    about = {"data": "scifact", "words": {"language": "english", "weight": 0.15}}
    return replace(evaluation, scores=scores, about=about)


def test_words_are_explained_where_they_were_measured(facts, evaluation, with_words, tmp_path):
    text = render(facts, with_words)
    assert "| words alone (BM25) | 55.0 | 55.0 |" in text
    assert "split and stemmed as english" in text
    assert "the words with the weight 0.15; their storage" in text
    about = {"words": {"language": "function", "weight": 0.3}}
    assert "BM25 of the texts, split by a function. *sparse" in render(
        facts, replace(with_words, about=about)
    )
    assert "SparseIndex.build(codes, words=texts)" not in render(facts, evaluation)
    _, results = model_index_to_eval_results(ModelCard(text).data.to_dict()["model-index"])
    found = {(r.metric_type, r.metric_name): r.metric_value for r in results}
    assert found["ndcg_at_10", "nDCG@10, k=8, sparse, query at 4k, and words"] == 0.65
    tuned = replace(with_words, tuning=Tuning(0.2, 0.66, 0.15, 0.65, 8, 32, 300))
    tuned.save(tmp_path / "evaluation.json")
    text = render(facts, Evaluation.load(tmp_path / "evaluation.json"))
    assert "- Weight of words: 0.2, the best for these queries. nDCG@10 66.0 where the" in text
    assert "--texts TEXTS --weight 0.2 --output" in text
    for words in ("much", {"weight": "{{ 1 }}"}, None, {}):
        render(facts, replace(with_words, about={"words": words}))


@pytest.mark.parametrize("tuning", [3, {}, {"weight": 1}, "much"])
def test_a_damaged_tuning_is_refused(with_words, tmp_path, tuning):
    with_words.save(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    names = ("weight", "ndcg", "given_weight", "given_ndcg", "k", "query_k", "n_queries")
    for damaged in (tuning, dict.fromkeys(names, "1")):
        (tmp_path / "evaluation.json").write_text(json.dumps({**content, "tuning": damaged}))
        with pytest.raises(ValueError, match="is not a saved evaluation"):
            Evaluation.load(tmp_path / "evaluation.json")


def test_words_on_other_texts_are_a_second_line(travelled, with_words, tmp_path):
    others = [travelled.others[1], OtherTexts.of(with_words)]
    facts = replace(travelled, others=others)
    save(facts, tmp_path)
    assert CardFacts.load(tmp_path).others == others
    saved = json.loads((tmp_path / FACTS_NAME).read_text())["others"]
    assert "words" not in saved[0]  # as an earlier version reads it
    text = render(CardFacts.load(tmp_path))
    line = "| scifact, with words (alone: 55.0) | nDCG@10 | 12,345 | 66.0 |  | 61.0 | 65.0 |  |"
    assert line in text
    assert "The line *with words* is of" in text
    assert "with words" not in render(travelled)


def test_a_mixture_is_on_the_card_with_shares_and_links(travelled):
    text = render(travelled)
    link = "[org/web](https://huggingface.co/datasets/org/web)"
    assert f"| {link} (en, train) | text | 300 | 75.0% | 75.0% |" in text
    assert r"| a\|b .jsonl | body | 100 | 25.0% | 25.0% |" in text
    unweighted = [replace(share, weight=None) for share in travelled.mixture]
    assert "| a\\|b .jsonl | body | 100 | 25.0% |\n" in render(
        replace(travelled, mixture=unweighted)
    )


def test_facts_of_a_mixture_survive_their_json_and_are_left_out_where_unknown(
    travelled, facts, tmp_path
):
    save(travelled, tmp_path)
    loaded = CardFacts.load(tmp_path)
    for name in ("mixture", "fvu", "others"):
        assert getattr(loaded, name) == getattr(travelled, name)
    save(facts, tmp_path)  # as an earlier version writes and reads it
    assert not {"mixture", "fvu", "others"} & set(json.loads((tmp_path / FACTS_NAME).read_text()))


@pytest.mark.parametrize(
    "change",
    [
        {"mixture": 3},
        {"mixture": [{"rows": 1}]},
        {"mixture": [{"name": "a", "rows": "many"}]},
        {"fvu": [0.1]},
        {"fvu": {"k": 0.1}},
        {"fvu": {"8": "{{ 1 }}"}},
        {"others": {"a": 1}},
        {"others": ["scifact"]},
        {"others": [{"data": "a", "metric": "none", "n_documents": 1, "n_queries": 1}]},
    ],
)
def test_damaged_facts_of_training_and_other_texts_are_refused(travelled, tmp_path, change):
    content = {**json.loads(travelled.to_json()), **change}
    (tmp_path / FACTS_NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no readable csr_card\.json"):
        CardFacts.load(tmp_path)


def test_settings_that_are_off_are_not_listed(facts):
    on, off = (
        render(replace(facts, training=asdict(csr_st.recipe(short_ks=ks)))) for ks in ((2, 4), ())
    )
    assert "| short_ks | 2, 4 |" in on
    assert "short_ks" not in off


def test_facts_that_are_damaged_are_refused(facts, tmp_path):
    with pytest.raises(ValueError, match=r"no readable csr_card\.json"):
        CardFacts.load(tmp_path)
    for content in ("[]", "{", '{"model_id": "x"}', json.dumps({**asdict(facts), "k": "many"})):
        (tmp_path / "csr_card.json").write_text(content)
        with pytest.raises(ValueError, match=r"no readable csr_card\.json"):
            CardFacts.load(tmp_path)


def test_words_of_the_facts_are_never_run_as_a_template(facts):
    text = render(replace(facts, data="{{ 7 * 7 }}", base_model="{% for %}"))
    assert "{{ 7 * 7 }}" in text


def test_code_on_the_card_runs_as_printed(model, tmp_path, monkeypatch, capsys):
    vectors = np.random.default_rng(0).normal(size=(30, 16))
    evaluation = csr_st.evaluate(csr_st.find_head(model), vectors, ks=(2, 8))
    csr_st.save(model, tmp_path / "tiny", evaluation=evaluation)
    text = (tmp_path / "tiny/README.md").read_text()
    blocks = code_blocks(text)
    assert len(blocks) == 2
    assert 'SentenceTransformer("tiny")' in blocks[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)  # the card's own code, as a reader would paste it
    assert names["embeddings"].shape == (3, 64)
    assert np.count_nonzero(names["embeddings"], axis=1).max() <= 16
    assert names["hits"].ids.shape == (1, 2)
    printed = capsys.readouterr().out.strip().splitlines()
    assert sum(line.endswith(tuple(names["documents"])) for line in printed) == 2
    for line in re.findall(r"^- .*`(codes\.[a-z_]+\([0-9]*\))`", text, flags=re.MULTILINE):
        eval(line, names)


def test_code_on_the_card_of_a_token_level_head_runs_as_printed(
    token_model, tmp_path, monkeypatch, capsys
):
    csr_st.save(token_model, tmp_path / "tiny")
    text = (tmp_path / "tiny/README.md").read_text()
    (block,) = code_blocks(text)
    assert "csr_st.encode(model, queries, k=4" in block  # half of a document's 8
    monkeypatch.chdir(tmp_path)
    names = {}
    block = block.replace("Copy a folder and everything in it.", "the cat sat on the mat")
    exec(block.replace("How do I duplicate a directory?", "a red cat"), names)
    assert names["hits"].scores[0, 0] > 0
    assert "the cat sat on the mat" in capsys.readouterr().out
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    words = re.search(r"`(SparseIndex.build\(codes, words=documents, weight=0.08\))`", text)[1]
    index = eval(words, {**names, "SparseIndex": csr_st.SparseIndex})
    assert (index.language, index.weight) == ("english", 0.08)


@pytest.mark.parametrize("modality", ["image", "text and image"])
def test_code_for_images_is_valid_and_makes_its_own_pictures(facts, modality):
    text = render(replace(facts, modality=modality))
    first = code_blocks(text)[0]
    compile(first, "card", "exec")
    assert "from PIL import Image" in first
    assert ("a red square" in first) == ("text" in modality)


def test_backbone_with_code_of_its_own_is_loaded_with_trust(facts):
    text = render(replace(facts, remote_code=True))
    assert 'SentenceTransformer("org/mini-csr", trust_remote_code=True)' in code_blocks(text)[0]


def test_citation_is_on_the_card(facts):
    assert "arxiv.org/abs/2503.01776" in code_blocks(render(facts), "bibtex")[0]


@pytest.mark.parametrize("best", ["symmetric", "query_4k", "rescored"])
def test_the_headline_names_the_best_scoring_at_the_default_k(facts, evaluation, best):
    rows = {m: {4: 0.1, 8: 0.3 + (m == best) / 10} for m in ("symmetric", "query_4k", "rescored")}
    rows |= {"pca": {4: 0.9, 8: 0.9}}
    names = {"symmetric": "sparse, query at k", "query_4k": "sparse, query at 4k"}
    text = render(facts, replace(evaluation, scores={**evaluation.scores, "ndcg@10": rows}))
    name = names.get(best, "rescored through the decoder")
    assert f"nDCG@10 is 40.0 where the dense vector has 60.0** ({name}; see" in text


def test_what_is_not_known_of_the_training_is_not_claimed(facts):
    text = render(replace(facts, training={}))
    assert "How the head was trained is not recorded here." in text
    assert "frozen" not in text
    assert "backbone is unchanged" not in text
    assert "The backbone was frozen." in render(facts)


def test_new_names_and_figures_replace_what_is_ours_and_nothing_else(facts, evaluation):
    old = render(facts, evaluation)
    old = old.replace(START, f"mini-csr is mine.\n\n{START}") + "\n## Story\n\nMine.\n"
    old = old.replace("license: apache-2.0", "license: mit\nthumbnail: me.png")
    measured = replace(evaluation, n_documents=99, dense_bytes_per_item=77)
    new = merged(old, render(replace(facts, model_id="other/new-name"), measured))
    assert "99 documents" in new
    assert "12,345" not in new
    assert "takes 28 bytes where the dense vector takes 77" in new
    assert "org/mini-csr" not in new
    assert "\n# new-name\n" in new
    data = ModelCard(new).data
    assert (data.model_name, data.license, data.thumbnail) == ("new-name", "mit", "me.png")
    assert f"mini-csr is mine.\n\n{START}" in new
    assert new.endswith(f"{END}\n\n## Story\n\nMine.\n")
    assert merged(new, render(facts, evaluation)) == old
    assert ModelCard(merged(new, render(facts, evaluation), ["license"])).data.license == (
        "apache-2.0"
    )
    unmeasured = merged(old, render(facts))
    assert ModelCard(unmeasured).data.get("eval_results") is None
    assert ModelCard(merged(unmeasured, new)).data.model_name == "new-name"


def test_a_card_without_metadata_gets_it_back(facts):
    text = render(facts)
    without = text[text.index(START) :]
    assert ModelCard(merged(without, text)).data.library_name == "sentence-transformers"


def test_cards_of_models_with_a_head_are_known_by_their_tags(facts):
    assert is_ours(render(facts))
    assert not is_ours("---\ntags:\n- sentence-transformers\n---\n# Base\n")
    assert not is_ours("")
