"""Batches for training, in an order that depends only on seed and step, read one step ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from csr_st.config import TrainConfig
from csr_st.embeddings import EmbeddingStore
from csr_st.training.objective import Batch

VECTORS = ("vectors", "anchors", "positives")  # fields of a batch that are divided by the scale


def feed(
    store: EmbeddingStore,
    config: TrainConfig,
    scale: float,
    start: int,
    accelerator: Accelerator,
) -> Iterator[tuple[int, Batch]]:
    """Step number and this process's part of the batch, on the device, from ``start`` to the end.

    Vectors are divided by ``scale``; ``config`` is filled in.
    """
    order = _row_order(store, config, start, accelerator)
    step, end = start, config.steps or 0
    with ThreadPoolExecutor(1) as reader:

        def begin(step: int) -> Future[Batch] | None:
            if step >= end:
                return None
            return reader.submit(_read, store, config, order, step, accelerator)

        upcoming = begin(step)
        while upcoming is not None:
            batch = _place(upcoming.result(), scale, accelerator.device)
            # Not earlier: the reader would hold Python's lock while this batch is waited for.
            upcoming = begin(step + 1)
            yield step, batch
            step += 1


def _row_order(
    store: EmbeddingStore, config: TrainConfig, start: int, accelerator: Accelerator
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of batch after batch, epoch after epoch, without end."""
    epoch, first = divmod(start, len(store) // config.batch_size)
    while True:
        yield from store.batches(
            config.batch_size,
            seed=config.seed,
            epoch=epoch,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            start=first,
            drop_last=True,
        )
        epoch, first = epoch + 1, 0


def _read(
    store: EmbeddingStore,
    config: TrainConfig,
    order: Iterator[NDArray[np.int64]],
    step: int,
    accelerator: Accelerator,
) -> Batch:
    rows = next(order)
    labels = None if store.labels is None else torch.from_numpy(store.labels[rows])
    vectors = torch.from_numpy(store.rows(rows))
    weight = config.weight_of_pairs(scored=store.scores is not None)
    if store.pairs is None or not len(store.pairs) or not weight:
        return Batch(vectors, labels)
    world, rank = accelerator.num_processes, accelerator.process_index
    each = min(config.batch_size, len(store.pairs)) // world
    draw = np.random.default_rng((config.seed, step))
    drawn = draw.choice(len(store.pairs), each * world, replace=False)
    mine = np.sort(drawn[rank * each : (rank + 1) * each])
    anchors, positives = (torch.from_numpy(store.rows(store.pairs[mine, i])) for i in (0, 1))
    scores = None if store.scores is None else torch.from_numpy(store.scores[mine])
    return Batch(vectors, labels, anchors, positives, scores)


def _place(batch: Batch, scale: float, device: torch.device) -> Batch:
    """The batch on a device, its vectors divided by ``scale``."""
    names = [field.name for field in dataclasses.fields(Batch)]
    tensors = {name: x for name in names if (x := getattr(batch, name)) is not None}
    placed = {name: x.to(device, non_blocking=True) for name, x in tensors.items()}
    scaled = {name: placed[name] / scale for name in VECTORS if name in placed}
    return Batch(**{**placed, **scaled})
