"""Publishing and loading, against a stand-in for the Hub and with the real client."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hub_stand_in import CUT, READER, WRITER, HubStandIn
from huggingface_hub import ModelCard, constants, hf_api
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.evaluation.latency import SearchTime
from csr_st.evaluation.quality import Evaluation
from csr_st.head import find_head
from csr_st.insight.page import write_page
from csr_st.publishing.files import published_files
from csr_st.publishing.model_card import END, START

REPO = "someone/tiny-csr"
# huggingface_hub itself passes its uploads in a way that its HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def saved(model, tmp_path, monkeypatch):
    """A saved model with figures, and beside it what training leaves."""
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    folder = tmp_path / "tiny"
    vectors = np.random.default_rng(0).normal(size=(30, 16))
    evaluation = csr_st.evaluate(find_head(model), vectors, ks=(2, 8), about={"data": "noise"})
    csr_st.save(model, folder, evaluation=evaluation, config=csr_st.recipe(k=8), license="mit")
    (folder / "vectors").mkdir()
    (folder / "vectors/part.bin").write_bytes(b"private")
    (folder / ".env").write_text("SECRET=1")
    return folder


def edit(folder, words="The author's own words."):
    readme = folder / "README.md"
    text = readme.read_text() + f"\n## Story\n\n{words}\n"
    readme.write_text(text)
    return text


def card(hub, repo_id=REPO, revision="main"):
    return hub.files(repo_id, revision)["README.md"].decode()


def test_a_folder_comes_back_from_the_hub_with_equal_codes(hub, saved, model, texts):
    url = csr_st.push_to_hub(saved, REPO)
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    loaded = SentenceTransformer(REPO, device="cpu")
    np.testing.assert_array_equal(loaded.encode(texts, k=16), model.encode(texts, k=16))
    codes = csr_st.encode(loaded, texts, k=16)
    np.testing.assert_array_equal(codes.to_dense(), model.encode(texts, k=16))


def test_a_model_comes_back_from_the_hub_with_equal_codes(hub, model, texts):
    csr_st.push_to_hub(model, REPO)
    loaded = SentenceTransformer(REPO, device="cpu")
    np.testing.assert_array_equal(loaded.encode(texts, k=16), model.encode(texts, k=16))
    assert loaded.prompts == model.prompts


def test_one_commit_holds_the_model_and_nothing_else_of_the_folder(hub, saved):
    csr_st.push_to_hub(saved, REPO)
    assert len(hub.repos[REPO].branches["main"]) == 2  # the empty repository, the model
    files = hub.files(REPO)
    expected = {"modules.json", "README.md", "csr_card.json", "evaluation.json", "quality.png"}
    assert expected <= set(files)
    assert not any(name.startswith("vectors") or name == ".env" for name in files)


def test_published_card_names_the_repository_and_the_folder_is_left_as_it_was(hub, saved):
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    csr_st.push_to_hub(saved, REPO)
    assert f'SentenceTransformer("{REPO}")' in card(hub)
    assert card(hub).count("# tiny-csr\n") == 1
    assert ModelCard(card(hub)).data.model_name == "tiny-csr"
    assert json.loads(hub.files(REPO)["csr_card.json"])["model_id"] == REPO
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before


def test_what_the_card_links_to_lies_beside_it_in_any_repository(hub, saved):
    """Links are relative, so a push under another name, or again to a third one, keeps them."""
    csr_st.push_to_hub(saved, REPO)
    csr_st.push_to_hub(saved, "another/with-other-name", revision="v2")
    for repo_id, revision in ((REPO, "main"), ("another/with-other-name", "v2")):
        text, files = card(hub, repo_id, revision), hub.files(repo_id, revision)
        links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
        local = [link for pair in links for link in pair if link and "://" not in link]
        assert local == ["quality.png"]
        assert set(local) <= set(files)
        assert saved.name not in re.findall(r"huggingface\.co/(\S+)\)", text)


def test_search_time_is_kept_with_its_head_and_not_given_to_a_new_one(transformer_folder, tmp_path):
    backbone = SentenceTransformer(transformer_folder, device="cpu")
    folder = tmp_path / "first"
    timed = SearchTime(0.5, 100, 10, 8, 32)
    csr_st.save(csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=8)), folder, search=timed)
    loaded = SentenceTransformer(str(folder), device="cpu")
    assert csr_st.save(loaded, tmp_path / "copy").search == timed
    assert csr_st.save(loaded, folder, config=csr_st.recipe(k=8)).search is None


def test_private_repository_needs_a_token_to_load(hub, saved, texts, monkeypatch):
    csr_st.push_to_hub(saved, REPO, private=True)
    assert hub.repos[REPO].private
    assert SentenceTransformer(REPO, device="cpu", token=READER).encode(texts, k=4).any()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match=REPO):
        SentenceTransformer(REPO, device="cpu", token=False, cache_folder="elsewhere")


def test_private_is_not_ignored_where_a_public_repository_exists(hub, saved):
    hub.add(REPO, {".gitattributes": b""})
    with pytest.raises(ValueError, match=f"{REPO} is a public repository; nothing was published"):
        csr_st.push_to_hub(saved, REPO, private=True)
    assert set(hub.files(REPO)) == {".gitattributes"}


def test_revision_is_a_branch_of_its_own(hub, saved, texts):
    csr_st.push_to_hub(saved, REPO, revision="try/one")
    assert "modules.json" not in hub.files(REPO)
    loaded = SentenceTransformer(REPO, device="cpu", revision="try/one")
    assert loaded.encode(texts, k=4).shape == (len(texts), 64)


@pytest.mark.parametrize("revision", [None, "next"])
def test_another_card_is_replaced_only_when_told(hub, saved, revision):
    hub.add(REPO, {"README.md": b"---\nlicense: mit\n---\n# Mine\n\nHand-written.\n"})
    with pytest.raises(ValueError, match=r"has a card that this push.*replace_card=True"):
        csr_st.push_to_hub(saved, REPO, revision=revision)
    assert set(hub.files(REPO)) == {"README.md"}
    assert not hub.blobs
    csr_st.push_to_hub(saved, REPO, revision=revision, replace_card=True)
    assert "# tiny-csr" in card(hub, revision=revision or "main")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\nMy words.\n",
        lambda text: text.replace("license: mit", "license: gpl"),
    ],
)
def test_card_that_its_author_edited_on_the_hub_is_not_lost(hub, saved, change):
    csr_st.push_to_hub(saved, REPO)
    edited = change(card(hub))
    hub.repos[REPO].commit("main", {**hub.files(REPO), "README.md": edited.encode()})
    with pytest.raises(ValueError, match="csr_st model's card"):
        csr_st.push_to_hub(saved, REPO)
    assert card(hub) == edited


def test_a_retrained_model_replaces_the_card_that_nobody_edited(hub, saved):
    csr_st.push_to_hub(saved, REPO)
    before = card(hub)
    vectors = np.random.default_rng(1).normal(size=(40, 16))
    model = SentenceTransformer(str(saved), device="cpu")
    csr_st.publishing.hub.update_card(saved, csr_st.evaluate(find_head(model), vectors, ks=(2, 8)))
    csr_st.push_to_hub(saved, REPO)
    assert "40 documents" in card(hub)
    assert "40 documents" not in before


def test_the_same_folder_can_be_pushed_again(hub, saved):
    edit(saved)
    first = csr_st.push_to_hub(saved, REPO)
    text = card(hub)
    assert csr_st.push_to_hub(saved, REPO) != first
    assert card(hub) == text


def test_a_loaded_model_keeps_its_authors_card_when_saved_and_pushed(hub, saved, tmp_path):
    edit(saved)
    csr_st.push_to_hub(saved, REPO)
    text, recorded = card(hub), hub.files(REPO)["csr_card.json"]
    assert "The author's own words." in text
    loaded = SentenceTransformer(REPO, device="cpu")
    facts = csr_st.save(loaded, tmp_path / "again")
    assert (tmp_path / "again/README.md").read_text() == text
    assert facts.license == "mit"
    csr_st.push_to_hub(loaded, REPO)
    assert card(hub) == text
    assert hub.files(REPO)["csr_card.json"] == recorded
    vectors = np.random.default_rng(1).normal(size=(43, 16))
    evaluation = csr_st.evaluate(find_head(loaded), vectors, ks=(4,))
    csr_st.save(loaded, tmp_path / "again", evaluation=evaluation)
    measured = (tmp_path / "again/README.md").read_text()
    assert "43 documents" in measured
    assert "The author's own words." in measured
    csr_st.push_to_hub(tmp_path / "again", "someone/copy")
    assert "The author's own words." in card(hub, "someone/copy")
    assert 'SentenceTransformer("someone/copy")' in card(hub, "someone/copy")


def test_sentence_transformers_own_save_keeps_the_card(saved, tmp_path):
    text = edit(saved)
    SentenceTransformer(str(saved), device="cpu").save(str(tmp_path / "again"))
    assert (tmp_path / "again/README.md").read_text() == text


def test_training_again_into_a_folder_keeps_what_its_author_wrote(saved, backbone):
    edit(saved)
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=8))
    csr_st.save(model, saved, config=csr_st.recipe(k=8, seed=4321), data="new data")
    text = (saved / "README.md").read_text()
    assert "The author's own words." in text
    assert "| seed | 4321 |" in text
    assert "Data: new data." in text
    assert json.loads((saved / "csr_card.json").read_text())["data"] == "new data"


def test_figures_of_another_head_do_not_stay_beside_one_that_was_not_measured(saved, backbone):
    csr_st.save(csr_st.attach(backbone, csr_st.SparseCSRHead(16, 128, k=4)), saved)
    assert "Not measured yet" in (saved / "README.md").read_text()
    assert not {"evaluation.json", "quality.png"} & set(published_files(saved))


def test_a_model_saved_where_one_stands_has_the_folders_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert csr_st.save(model, ".").model_id == tmp_path.name


def test_new_figures_change_their_section_and_no_other(saved):
    old = edit(saved).replace("license: mit", "license: mit  # mine\nthumbnail: me.png")
    (saved / "README.md").write_text("---\n# Note\n" + old.removeprefix("---\n"))
    loaded = SentenceTransformer(str(saved), device="cpu")
    vectors = np.random.default_rng(1).normal(size=(41, 16))
    evaluation = csr_st.evaluate(find_head(loaded), vectors, ks=(4,))
    csr_st.save(loaded, saved, evaluation=evaluation)
    new = (saved / "README.md").read_text()
    assert "41 documents" in new
    assert "30 documents" not in new
    results = ModelCard(new).data.eval_results
    assert {result.metric_name.split(", ")[1] for result in results} == {"k=4"}
    assert new.startswith("---\n# Note\n")
    assert "license: mit  # mine\nthumbnail: me.png\n" in new
    assert new.split(END)[1] == old.split(END)[1]


def test_words_outside_the_markers_stay_byte_for_byte(saved, model):
    """Windows line ends, bytes that are not UTF-8, and a byte order mark."""
    readme = saved / "README.md"
    before, behind = b"My \xff words.\r\n\r\n", b"\r\nMore.\r\n \t"
    text = readme.read_bytes().replace(b"\n", b"\r\n")
    start, end = START.encode(), END.encode()
    text = b"\xef\xbb\xbf" + text.replace(start, before + start).replace(end, end + behind)
    readme.write_bytes(text)
    vectors = np.random.default_rng(1).normal(size=(41, 16))
    csr_st.publishing.update_card(saved, csr_st.evaluate(find_head(model), vectors, ks=(2, 8)))
    new = readme.read_bytes()
    assert b"41 documents" in new
    assert new.split(END.encode())[1] == text.split(END.encode())[1]
    assert before + start in new
    assert new.startswith(b"\xef\xbb\xbf---\r\n")
    assert new.count(b"library_name:") == new.count(b"model-index:") == 1


def test_edits_between_the_markers_are_overwritten(saved):
    readme = saved / "README.md"
    text = readme.read_text()
    readme.write_text(text.replace("## Limits", "## My limits"))
    csr_st.publishing.update_card(saved, Evaluation.load(saved / "evaluation.json"))
    assert readme.read_text() == text


def test_a_card_without_markers_is_left_with_a_warning(hub, saved, model):
    readme = saved / "README.md"
    marked = readme.read_text()
    text = marked.replace(START, "").replace(END, "\nMine.")
    readme.write_text(text)
    vectors = np.random.default_rng(1).normal(size=(41, 16))
    evaluation = csr_st.evaluate(find_head(model), vectors, ks=(2, 8))
    with pytest.warns(UserWarning, match=r"no csr_st markers .* evaluation\.json and quality\.png"):
        csr_st.publishing.update_card(saved, evaluation)
    assert readme.read_text() == text
    assert Evaluation.load(saved / "evaluation.json") == evaluation
    with pytest.warns(UserWarning, match="no csr_st markers"):
        csr_st.save(model, saved, config=csr_st.recipe(k=8), data="new data")
    assert readme.read_text() == text
    with pytest.warns(UserWarning, match="no csr_st markers"):
        csr_st.push_to_hub(saved, REPO)
    assert card(hub) == text
    readme.write_text(f"# Mine\n\n{REPO} is my own.\n")
    csr_st.push_to_hub(saved, REPO, replace_card=True)
    assert card(hub) == readme.read_text()
    csr_st.save(model, saved, evaluation=evaluation, replace_card=True)
    assert "41 documents" in readme.read_text()
    assert "Mine." not in readme.read_text()


def test_a_card_without_its_facts_is_left_with_a_warning(saved, model):
    (saved / "csr_card.json").unlink()
    text = (saved / "README.md").read_text()
    vectors = np.random.default_rng(1).normal(size=(41, 16))
    with pytest.warns(UserWarning, match=r"has no csr_card\.json beside it and is left"):
        csr_st.publishing.update_card(saved, csr_st.evaluate(find_head(model), vectors, ks=(2,)))
    assert (saved / "README.md").read_text() == text


def test_figures_in_another_folder_come_without_a_card(saved, tmp_path):
    evaluation = Evaluation.load(saved / "evaluation.json")
    csr_st.publishing.update_card(tmp_path / "figures", evaluation)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "evaluation.json",
        "quality.png",
    }


def test_a_model_that_was_trained_here_is_pushed_with_its_figures(hub, saved, model):
    csr_st.save(model, saved, evaluation=Evaluation.load(saved / "evaluation.json"), data="mine")
    csr_st.push_to_hub(model, REPO)
    assert {"evaluation.json", "quality.png", "csr_card.json"} <= set(hub.files(REPO))
    assert "Data: mine." in card(hub)
    assert f'SentenceTransformer("{REPO}")' in card(hub)
    csr_st.push_to_hub(model, "someone/second")
    assert "Data: mine." in card(hub, "someone/second")


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_revoked000000000000000000000000", "token is missing or refused"),
        (READER, f"may not write to {REPO}"),
        ("hf_with space", "invalid characters"),
        ("hf_with_newline\n", "invalid characters"),
    ],
)
def test_refused_token_is_named_as_the_reason_and_never_shown(hub, saved, token, words, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises((ConnectionError, ValueError), match=words) as caught:
        csr_st.push_to_hub(saved, REPO, token=token)
    assert token not in str(caught.value)
    assert token not in caplog.text
    assert REPO not in hub.repos


def test_token_is_in_no_log_no_file_and_no_error(hub, saved, caplog, tmp_path, capfd):
    caplog.set_level(logging.DEBUG)
    csr_st.push_to_hub(saved, REPO, token=WRITER, private=True)
    loaded = SentenceTransformer(REPO, device="cpu", token=WRITER)
    csr_st.save(loaded, tmp_path / "again")
    csr_st.push_to_hub(loaded, "someone/second", token=WRITER)
    with pytest.raises(ValueError, match="must be a name") as caught:
        csr_st.push_to_hub(saved, f"https://user:{WRITER}@hub.example/{REPO}", token=WRITER)
    hub.fail("POST .*/commit/", CUT)
    with pytest.raises(ConnectionError) as broken:
        csr_st.push_to_hub(saved, "someone/third", token=WRITER)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    published = [data for repo in hub.repos for data in hub.files(repo).values()]
    assert len(written) > 20
    assert not any(WRITER.encode() in data for data in [*written, *published])
    captured = "".join(capfd.readouterr())
    for text in (caplog.text, str(caught.value), str(broken.value), captured):
        assert WRITER not in text


@pytest.mark.parametrize("step", ["PUT /lfs/", "POST .*/lfs/", "POST .*/commit/", "preupload"])
@pytest.mark.parametrize("new", [True, False])
def test_cut_connection_leaves_no_half_published_model(hub, saved, model, texts, step, new):
    if not new:
        csr_st.push_to_hub(saved, REPO)
        with torch.no_grad():
            find_head(model).latent_bias += 1
        csr_st.save(model, saved)
    before = hub.files(REPO) if not new else {".gitattributes": b""}
    hub.fail(step, CUT)
    with pytest.raises(ConnectionError, match=r"connection to .* failed") as caught:
        csr_st.push_to_hub(saved, REPO, replace_card=True)
    assert "\n" not in str(caught.value)
    assert hub.files(REPO) == before


def test_short_interruption_of_an_upload_is_got_over(hub, saved, model, texts):
    hub.fail("PUT /lfs/", CUT, times=1)
    csr_st.push_to_hub(saved, REPO)
    loaded = SentenceTransformer(REPO, device="cpu")
    np.testing.assert_array_equal(loaded.encode(texts), model.encode(texts))


def test_cut_connection_while_looking_at_the_card_does_not_count_as_no_card(hub, saved):
    hub.add(REPO, {"README.md": b"# Mine\n\nHand-written.\n"})
    hub.fail("/resolve/", CUT)
    with pytest.raises(ConnectionError):
        csr_st.push_to_hub(saved, REPO)
    assert card(hub) == "# Mine\n\nHand-written.\n"


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("/commit/", 412, "was changed meanwhile"),
        ("/create", 403, "may not write"),
        ("PUT /lfs/", 503, "status 503"),
        ("/preupload/", 404, "was not found"),
    ],
)
def test_refusals_tell_what_to_do(hub, saved, step, status, words):
    hub.fail(step, status)
    with pytest.raises(ConnectionError, match=f"nothing was published: .*{words}"):
        csr_st.push_to_hub(saved, REPO)


def test_change_by_another_since_the_card_was_read_is_not_overwritten(hub, saved, monkeypatch):
    hub.add(REPO, {".gitattributes": b""})
    create_commit = hf_api.HfApi.create_commit

    def late(self, *args, **kwargs):
        hub.repos[REPO].commit("main", {"README.md": b"just in time"})
        return create_commit(self, *args, **kwargs)

    monkeypatch.setattr(hf_api.HfApi, "create_commit", late)
    with pytest.raises(ConnectionError, match="was changed meanwhile: push again"):
        csr_st.push_to_hub(saved, REPO)
    assert card(hub) == "just in time"


def test_offline_and_unreachable_are_told_apart(hub, saved, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        csr_st.push_to_hub(saved, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"connection to http://127\.0\.0\.1:9 failed"):
        csr_st.push_to_hub(saved, REPO)


@pytest.mark.parametrize("name", ["", "a/b/c", "../up", "org/na me", "org/", "-x/y", "org/a..b"])
def test_impossible_names_are_refused_before_anything_is_sent(hub, saved, name):
    with pytest.raises(ValueError, match="must be a name such as"):
        csr_st.push_to_hub(saved, name)
    assert not hub.requests


def test_folders_without_a_head_are_refused(hub, backbone, tmp_path):
    with pytest.raises(ValueError, match=r"no modules\.json"):
        csr_st.push_to_hub(tmp_path, REPO)
    backbone.save(str(tmp_path / "dense"))
    with pytest.raises(ValueError, match="has no SparseCSRHead"):
        csr_st.push_to_hub(tmp_path / "dense", REPO)
    assert not hub.requests


def test_links_out_of_the_folder_are_not_followed(hub, saved, tmp_path):
    (tmp_path / "secret").write_text(WRITER)
    (saved / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"notes\.txt is a link to a file outside"):
        csr_st.push_to_hub(saved, REPO)
    assert not hub.requests


def test_a_snapshot_in_the_hubs_cache_can_be_published(hub, saved):
    csr_st.push_to_hub(saved, REPO)
    snapshot = hf_api.HfApi().snapshot_download(REPO)
    csr_st.push_to_hub(snapshot, "someone/copy")
    assert set(hub.files("someone/copy")) == set(hub.files(REPO))


def test_environment_alone_is_enough(saved, texts, tmp_path, model):
    """HF_ENDPOINT and a token in the environment of a fresh process, as a user has them."""
    script = """
import sys, json, csr_st
from sentence_transformers import SentenceTransformer
folder, repo, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
csr_st.push_to_hub(folder, repo)
codes = SentenceTransformer(repo, device="cpu").encode(texts, k=16)
json.dump(codes.tolist(), open(sys.argv[4], "w"))
"""
    with HubStandIn() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": WRITER,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        arguments = [str(saved), REPO, json.dumps(texts), str(tmp_path / "codes.json")]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert WRITER not in done.stdout + done.stderr
    codes = np.array(json.loads((tmp_path / "codes.json").read_text()), np.float32)
    np.testing.assert_array_equal(codes, model.encode(texts, k=16))


# A repository that means harm -------------------------------------------------------------------


@pytest.fixture
def hostile(saved, tmp_path):
    """A copy of the saved model to spoil, with code beside it that leaves a trace if it runs."""
    folder = tmp_path / "hostile"
    shutil.copytree(saved, folder)
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').close()\nclass SparseCSRHead: pass\n"
    for name in ("csr_st.py", "head.py", "__init__.py", "setup.py", "sitecustomize.py"):
        (folder / name).write_text(code)
        (folder / "1_SparseCSRHead" / name).write_text(code)
    yield folder
    assert not trace.exists()


def rewrite(file, **changes):
    content = json.loads(file.read_text())
    target = content[-1] if isinstance(content, list) else content
    target.update(changes)
    file.write_text(json.dumps(content))


def test_code_in_the_folder_does_not_run(hostile, texts):
    loaded = SentenceTransformer(str(hostile), device="cpu")
    assert type(find_head(loaded)) is csr_st.SparseCSRHead
    assert loaded.encode(texts, k=4).any()


@pytest.mark.parametrize("path", ["../outside", "/etc", "1_SparseCSRHead/../../outside", "..\\up"])
def test_module_paths_that_leave_the_folder_are_refused(hostile, path):
    rewrite(hostile / "modules.json", path=path)
    with pytest.raises(ValueError, match="Invalid model path"):
        SentenceTransformer(str(hostile), device="cpu")


@pytest.mark.parametrize(
    "kind", ["os.system", "csr_st.publishing.hub.push_to_hub", "head.SparseCSRHead"]
)
def test_other_classes_than_the_head_stay_behind_the_gate(hostile, kind):
    rewrite(hostile / "modules.json", type=kind)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(hostile), device="cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 10**12}, "k=1000000000000 exceeds hidden_dim=64"),
        ({"query_k": 65}, "query_k=65 exceeds hidden_dim=64"),
        ({"hidden_dim": 2**24}, "do not fit the config"),
        ({"hidden_dim": 10**15}, "exceeds the largest supported"),
        ({"input_dim": 10**9}, "exceeds the largest supported"),
        ({"input_dim": "16"}, "is not an integer"),
        ({"k": [8]}, "not an integer"),
        ({"dtype": "object"}, "not one of"),
        ({"format_version": 99}, "format version 99"),
    ],
)
def test_configs_that_lie_are_refused(hostile, changes, words):
    rewrite(hostile / "1_SparseCSRHead/config.json", **changes)
    with pytest.raises((ValueError, TypeError), match=words):
        SentenceTransformer(str(hostile), device="cpu")


def test_weights_that_lie_or_are_pickled_are_refused(hostile):
    weights = hostile / "1_SparseCSRHead/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        SentenceTransformer(str(hostile), device="cpu")
    weights.unlink()
    torch.save({"encoder_weight": torch.zeros(64, 16)}, weights.with_name("pytorch_model.bin"))
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        SentenceTransformer(str(hostile), device="cpu")


def test_hostile_cards_and_facts_are_data_only(hostile, hub):
    rewrite(hostile / "csr_card.json", data="{{ ''.__class__.__mro__ }} {% raw %}", k="x")
    with pytest.raises(ValueError, match=r"csr_card\.json"):
        csr_st.push_to_hub(hostile, REPO)
    rewrite(hostile / "csr_card.json", k=8)
    csr_st.push_to_hub(hostile, REPO, replace_card=True)
    assert "<class" not in card(hub)


@pytest.mark.parametrize("loaded", [False, True])
def test_figures_measured_since_the_model_was_loaded_survive_saving_it(saved, model, loaded):
    held = SentenceTransformer(str(saved), device="cpu") if loaded else model
    vectors = np.random.default_rng(1).normal(size=(25, 16))
    csr_st.publishing.update_card(saved, csr_st.evaluate(find_head(model), vectors, ks=(4,)))
    facts = json.loads((saved / "csr_card.json").read_text())
    csr_st.save(held, saved)
    assert json.loads((saved / "evaluation.json").read_text())["n_documents"] == 25
    assert json.loads((saved / "csr_card.json").read_text())["training"] == facts["training"] != {}
    assert "25 documents" in (saved / "README.md").read_text()


def test_facts_of_a_model_are_found_in_its_folder_and_on_the_hub(hub, saved, tmp_path):
    from csr_st.publishing.files import facts_of

    csr_st.publishing.update_card(saved, None, fvu={8: 0.25})
    csr_st.push_to_hub(saved, REPO)
    assert facts_of(str(saved)).fvu == {8: 0.25}
    assert facts_of(REPO).fvu == {8: 0.25}
    (tmp_path / "empty").mkdir()
    for name in ("someone/absent", "no id", str(tmp_path / "empty")):
        assert facts_of(name) is None


@pytest.mark.parametrize("from_folder", [False, True])
def test_names_of_latents_are_published_and_can_be_pushed_again(hub, model, saved, from_folder):
    source = saved if from_folder else model
    found = [csr_st.LatentName(5, ("wing", "lift"), 0.9, 0.25, (3, 4))]
    names = csr_st.LatentNames(found, hidden_dim=64, k=8, n_texts=80)
    csr_st.push_to_hub(source, REPO, names=names)
    assert hub.files(REPO)["latents.json"].decode() == names.to_json()
    assert card(hub).count("| 5 | wing, lift | 0.90 | 25.0% |") == 2  # most used, and best named
    # The card is known as one that nobody edited.
    csr_st.push_to_hub(source, REPO, names=names)
    assert (saved / "latents.json").is_file() == from_folder


def test_a_page_holds_texts_and_is_published_only_on_request(hub, model, saved, texts):
    codes = csr_st.encode(model, texts, k=4)
    write_page(saved / "any name.html", codes, texts)
    (saved / "notes.html").write_text("<p>Of the author.")
    csr_st.push_to_hub(saved, REPO)
    assert "notes.html" in hub.files(REPO)
    assert "any name.html" not in hub.files(REPO)
    csr_st.push_to_hub(saved, REPO, page=True)
    assert hub.files(REPO)["any name.html"] == (saved / "any name.html").read_bytes()
