"""The data that `csr-st train` is given: one data set, with labels or pairs, or a mixture."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from csr_st.data import loading as sources
from csr_st.data.mixing import mix
from csr_st.data.names import DataName

NUMBER = re.compile(r"\d*\.?\d+(e-?\d+)?")


@dataclass(frozen=True)
class TrainingData:
    """What `csr_st.workflow.train_model` needs of its data.

    Attributes:
        rows: The data.
        name: Words for it, as on the card.
        facts: Further facts of the card.
        columns: Columns by argument.
    """

    rows: Any
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def training_data(  # each argument is an option of the command
    names: Sequence[str],
    split: str,
    text_column: str | None,
    *,
    labels: str | None,
    pairs: tuple[str, str] | None,
    scores: str | None,
    weights: str | None,
    limit: int | None,
    skip_bad: bool,
    seed: int,
) -> TrainingData:
    """Find the data of a command line.

    Raises:
        FileNotFoundError: If there is no such data.
        ValueError: If options do not fit the data or each other.
    """
    supervised = {"--labels": labels, "--pairs": pairs, "--scores": scores}
    named = next((option for option, given in supervised.items() if given), None)
    if len(names) > 1 or (limit is not None and named is None):
        if named is not None:
            raise ValueError(
                f"{named} needs one DATASET, here are {len(names)}: several are mixed without "
                "labels and pairs; leave the option out, or train on one"
            )
        numbers = None if weights is None else _numbers(weights)
        mixture = mix(
            names,
            numbers,
            limit=limit,
            split=split,
            text_column=text_column,
            skip_bad=skip_bad,
            seed=seed,
        )
        return TrainingData(mixture, mixture.name)
    if weights is not None:
        raise ValueError(f"--weights {weights} are for several DATASETs, here is one")
    source = DataName.parse(names[0], split, text_column)
    used = [name for name in (*(pairs or ()), source.column, scores) if name]
    rows = sources.load(source, columns=[*used, labels] if labels else used)
    rows = sources.as_classes(rows, labels)
    if skip_bad:
        rows = sources.without_bad(rows, used or [sources.item_column(rows.features, [labels])])
    if limit is not None and limit < len(rows):
        shuffled = rows.shuffle(seed=seed, keep_in_memory=True)
        rows = shuffled.select(range(limit), keep_in_memory=True)
    is_local = sources.is_local(source.name)
    return TrainingData(
        rows,
        sources.short_name(source.name) if is_local else source.name,
        {} if is_local else {"datasets": [source.name]},
        {
            "text_column": source.column,
            "label_column": labels,
            "pair_columns": pairs,
            "score_column": scores,
        },
    )


def _numbers(weights: str) -> list[float]:
    """The weights of ``--weights 0.5,0.3,0.2``."""
    try:
        return [float(part) for part in weights.split(",")]
    except ValueError:
        raise ValueError(
            f"--weights {weights!r} must be a number for each DATASET, as in 0.5,0.3,0.2"
        ) from None


def with_joined_weights(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``--weights 0.5 0.3`` as one value, ``--weights 0.5,0.3``, which typer takes.

    A number that is also the name of a file ends the value.
    """
    joined: list[str] = []
    place = 0
    while place < len(arguments):
        joined.append(arguments[place])
        place += 1
        if joined[-1] == "--weights":
            numbers = []
            while place < len(arguments) and _is_weight(arguments[place]):
                numbers.append(arguments[place])
                place += 1
            if numbers:
                joined.append(",".join(numbers))
    return joined


def _is_weight(argument: str) -> bool:
    return bool(NUMBER.fullmatch(argument)) and not os.path.lexists(argument)
