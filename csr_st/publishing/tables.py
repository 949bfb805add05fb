"""Tables of a card, in Markdown: of a mixture, of figures on other texts, of named latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from csr_st.data.mixing import Share
from csr_st.evaluation.mteb_tasks import TaskFigures
from csr_st.evaluation.results import METRICS
from csr_st.insight.names import LatentName, table
from csr_st.publishing.facts import OtherTexts


def mixture_table(shares: Sequence[Share]) -> str:
    """One line for each data set: what it gave, and the share that was asked for."""
    total = max(sum(share.rows for share in shares), 1)
    asked = any(share.weight is not None for share in shares)
    heads = ["data set", "column", "rows", "share", *(["share asked for"] if asked else [])]
    lines = [_row(heads), "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for share in shares:
        cells = [_named(share), share.column or "", f"{share.rows:,}", f"{share.rows / total:.1%}"]
        if asked:
            cells.append("" if share.weight is None else f"{share.weight:.1%}")
        lines.append(_row(cells))
    return "\n".join(lines)


def _named(share: Share) -> str:
    if not share.on_hub:
        return share.name
    about = ", ".join(part for part in (share.config, share.split) if part)
    return f"[{share.name}](https://huggingface.co/datasets/{share.name})" + (
        f" ({about})" if about else ""
    )


def others_table(others: Sequence[OtherTexts], k: int) -> str:
    """One line for each corpus, with its unexplained variance at the measured k nearest to ``k``.

    Figures are percentages, of documents at k and queries at 4k. Where words were measured, a
    second line has those of dense vectors and words, and of codes and words.
    """
    ks = sorted({measured for other in others for measured in other.query_4k})
    common = set.intersection(*(set(other.fvu) for other in others)) or set(ks)
    nearest = min(common, key=lambda measured: abs(measured - k))
    heads = ["corpus", "measure", "documents", "dense", *(f"k={k}" for k in ks)]
    heads.append(f"unexplained variance at k={nearest}")
    lines = [_row(heads), "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for other in others:
        figures = [f"{100 * other.query_4k[k]:.1f}" if k in other.query_4k else "" for k in ks]
        fvu = f"{other.fvu[nearest]:.1%}" if nearest in other.fvu else ""
        cells = [other.data, METRICS[other.metric], f"{other.n_documents:,}"]
        lines.append(_row([*cells, f"{100 * other.dense:.1f}", *figures, fvu]))
        if other.codes_and_words and other.words is not None and other.dense_and_words is not None:
            rows = other.codes_and_words
            figures = [f"{100 * rows[k]:.1f}" if k in rows else "" for k in ks]
            cells[0] = f"{other.data}, with words (alone: {100 * other.words:.1f})"
            lines.append(_row([*cells, f"{100 * other.dense_and_words:.1f}", *figures, ""]))
    return "\n".join(lines)


def tasks_table(tasks: Sequence[TaskFigures]) -> str:
    """One line for each task of MTEB, in percent."""
    ks = sorted({k for task in tasks for k in task.by_k})
    heads = ["task", "type", "measure", "dense", *(f"k={k}" for k in ks)]
    lines = [_row(heads), "| --- | --- | --- |" + " ---: |" * (len(heads) - 3)]
    for task in tasks:
        figures = [f"{100 * task.by_k[k]:.1f}" if k in task.by_k else "" for k in ks]
        lines.append(_row([task.task, task.kind, task.metric, f"{100 * task.dense:.1f}", *figures]))
    return "\n".join(lines)


def latents_table(names: Iterable[LatentName]) -> str:
    """One line for each latent. Words may come from a function of the author's: no HTML."""
    return escape(table(names), quote=False)


def _row(cells: Sequence[str]) -> str:
    plain = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return "| " + " | ".join(plain) + " |"
