"""The command that measures a head: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sentence_transformers import SentenceTransformer

from csr_st.cli import arguments
from csr_st.data import loading as sources
from csr_st.data.names import DataName
from csr_st.evaluation import Evaluation, Texts
from csr_st.evaluation.distance import far_from_training
from csr_st.evaluation.held_out import evaluate_model
from csr_st.evaluation.mteb_tasks import TaskFigures, evaluate_tasks, find_tasks
from csr_st.publishing import add_evaluation
from csr_st.publishing.facts import FACTS_NAME
from csr_st.publishing.figures import add_tasks
from csr_st.publishing.files import facts_of
from csr_st.search.tokenizing import check_language

NO_DENSE = (
    "csr-st evaluate compares codes with the dense vectors that a head encodes, and here are none; "
    "measure such a model with sentence-transformers' SparseInformationRetrievalEvaluator"
)
MOST = 50_000  # documents that evaluate uses where no queries come with them


def evaluate(
    model: arguments.Model,
    corpora: Annotated[
        list[str],
        typer.Argument(
            metavar="corpus",
            help=f"A folder in BEIR's format, or documents. {arguments.DATA}. Each may say its "
            "own: CORPUS:config=NAME,split=NAME,column=NAME. With --mteb: names of tasks.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json and quality.png. In the model's own folder, the card "
            "is updated too, with a line for each further CORPUS."
        ),
    ] = None,
    split: arguments.Split = "test",
    text_column: arguments.Column = None,
    limit: Annotated[
        int | None,
        typer.Option(help=f"At most this many documents; default {MOST:,}.", min=11),
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words", help="Also measure BM25, alone and with codes; needs a BEIR folder."
        ),
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="With --words: choose the BM25 weight by cross-validation on the queries.",
        ),
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(help="Language of the texts, such as german; english if not given."),
    ] = None,
    mteb: Annotated[
        bool,
        typer.Option(
            "--mteb",
            help="Each CORPUS names a task of MTEB; OUTPUT must be a saved model's folder.",
        ),
    ] = False,
    batch_size: arguments.BatchSize = 64,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Evaluate a head on your data.

    Prints the quality at every k next to the dense model, PCA and truncation. Without queries, each
    document is a query for its neighbours among the others. Warns if the data is far from the
    training data. Example: csr-st evaluate my-csr scifact --words --tune
    """
    if mteb:
        asked = {"--limit": limit, "--words": words, "--column": text_column, "--tune": tune}
        asked |= {"--language": language, "--split": None if split == "test" else split}
        _evaluate_tasks(model, corpora, output, asked, batch_size, trust_remote_code)
        return
    _check_output(output, len(corpora) > 1, "evaluate one CORPUS at a time")
    named = [DataName.parse(corpus, split, text_column) for corpus in corpora]
    if limit is not None and (beir := [one for one in named if sources.is_beir(one.name)]):
        raise ValueError(
            f"--limit {limit}: {beir[0]} is a BEIR folder, which is always used in full; leave the "
            "option out"
        )
    _check_words(named, words, tune, language)
    loaded = arguments.load_with_head(model, trust_remote_code, NO_DENSE)
    facts = facts_of(model)
    texts = [_documents(loaded, one, limit or MOST) for one in named]  # all, before any work
    for corpus, about, given in zip(corpora, _titles(named), texts, strict=True):
        if len(corpora) > 1:
            typer.echo(f"# {about}\n")
        found = Texts(*given[:2], language=language or "english") if words else None
        measured = evaluate_model(loaded, *given, {"data": about}, batch_size, found, tune)
        for metric in measured.scores:
            typer.echo(measured.table(metric) + "\n")
        echo_caution(measured)
        if measured.tuning is not None:
            typer.echo(measured.tuning)
        if facts and (far := far_from_training(measured, facts.fvu, facts.k, model, corpus)):
            typer.echo(far)
        if output is not None:
            add_evaluation(output, measured)


def _evaluate_tasks(  # what the command was given
    model: str,
    names: list[str],
    output: Path | None,
    asked: dict[str, Any],
    batch_size: int,
    trust_remote_code: bool,
) -> None:
    """Print the figures of tasks of MTEB, and put those of each into the card at once."""
    if refused := [option for option, given in asked.items() if given not in (None, False)]:
        raise ValueError(f"{', '.join(refused)}: tasks of mteb have their own data; leave it out")
    _check_output(output, True, "leave it out")
    tasks = find_tasks(names)
    loaded = arguments.load_with_head(model, trust_remote_code, NO_DENSE)

    def done(figures: TaskFigures) -> None:
        typer.echo(str(figures))
        if output is not None:
            add_tasks(output, [figures])

    evaluate_tasks(loaded, tasks, batch_size=batch_size, done=done)


def _check_output(output: Path | None, for_card: bool, otherwise: str) -> None:
    """Refuse an output that cannot be written, or has no card where one is needed."""
    if output is None:
        return
    arguments.check_output(output, is_folder=True)
    if for_card and not (output / FACTS_NAME).is_file():
        raise ValueError(
            f"--output {output} has no {FACTS_NAME}, as the folder of a saved model has; name "
            f"that folder, or {otherwise}"
        )


def _check_words(named: list[DataName], words: bool, tune: bool, language: str | None) -> None:
    """Refuse options that do not fit, and words that could not be measured, before any work."""
    for option, given in (("--tune", tune), (f"--language {language}", language is not None)):
        if given and not words:
            raise ValueError(f"{option} needs --words; add that, or leave it out")
    if not words:
        return
    check_language(language or "english")
    if other := [one for one in named if not sources.is_beir(one.name)]:
        raise ValueError(
            f"--words: {other[0]} has no judged queries, without which words have no figure; name "
            "a folder in BEIR's format (corpus.jsonl, queries.jsonl, qrels.tsv)"
        )


def _documents(model: SentenceTransformer, corpus: DataName, most: int) -> tuple[Any, Any, Any]:
    """Documents, queries and the relevant documents of each; None and None without queries."""
    if sources.is_beir(corpus.name):
        judged = sources.load_beir(corpus.name)
        return judged.documents, judged.queries, judged.relevant
    name, split = str(corpus), corpus.split
    return arguments.inputs_for(model, name, split, corpus.column)[:most], None, None


def _titles(named: list[DataName]) -> list[str]:
    """Words for each corpus: a Hub id with its split; a file's name, with its folder if needed."""
    short = [sources.short_name(one.name) for one in named]
    words = []
    for one, name in zip(named, short, strict=True):
        if not sources.is_local(one.name):
            words.append(f"{one} ({one.split})")
        else:
            words.append(name if short.count(name) == 1 else one.name)
    return words


def echo_caution(evaluation: Evaluation) -> None:
    """Print what is to be said of figures of few rows."""
    if evaluation.caution:
        typer.echo(evaluation.caution)
