"""Quality at every k on frozen embeddings: our recipes and their peers, trained on the same data.

    python tests/benchmarks/quality.py --model PATH --data DIR [--output DIR]
        [--sets scifact,cranfield,clinc150,trec6,stsb] [--recipes default,labelled,csr,csrv2,...]
        [--seeds 3] [--probe]

``DIR`` contains one folder per data set: scifact and cranfield in BEIR's format, clinc150 and trec6
as train.tsv and test.tsv (label TAB text), stsb as train.tsv and test.tsv (score TAB text TAB
text). Embeddings and finished rows are cached in the output folder, so a stopped run can continue.
"st" is sentence-transformers' CSRLoss with its best settings, "st-others" with its published ones;
"each-k" a separate head for each k, "ablation" the default recipe without each of its parts,
"curriculum" the default with the small k first.
Figures are percentages: nDCG@10, 5-NN accuracy, Spearman correlation; "neighbours" is the fraction
of the ten nearest neighbours by dense vectors that are among the ten nearest by symmetric codes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import quality_methods as methods
from quality_methods import KS, Row
from quality_report import draw, report
from quality_sets import SETS, Task, load

STEPS, BATCH = 600, 512  # of the baselines; our recipes choose theirs from the data
RECIPES = (
    "dense",
    "pca",
    "matryoshka",
    "st",
    "st-others",
    "default",
    "curriculum",
    "labelled",
    "csr",
    "csrv2",
    "sae",
    "each-k",
    "ablation",
)
# The default recipe without one of its parts, by name.
ABLATION: dict[str, dict[str, object]] = {
    "contrast": {"contrastive_weight": 0.0},
    "noise on the view": {"noise": 0.0},
    "distillation": {"distillation_weight": 0.0},
    "AuxK": {"aux_weight": 0.0},
    "square roots": {"power": 1.0},
    "refit": {"refit": 0},
    "maps of short codes": {"short_ks": ()},
}
# Of CSRLoss: settings of its training example (True) or class defaults (False), learning rate.
PEER_BEST = (True, 1e-3)
PEER_OTHERS = ((True, 4e-5), (False, 4e-5), (False, 1e-3))


Job = tuple[str, Callable[[], Row]]


def peers(task: Task, seed: int, probe: bool) -> dict[str, list[Job]]:
    """Key and job of every row of the baselines, by recipe."""
    plain = task.unlabelled()

    def trainer(documented: bool, rate: float) -> Job:
        work = partial(methods.sentence_transformers_csr, plain, seed, STEPS, BATCH)
        return f"st-{documented}-{rate}", partial(work, rate, documented, 32, probe and documented)

    once: dict[str, list[Job]] = {
        "dense": [("dense", partial(methods.dense, task))],
        "pca": [("pca", partial(methods.pca, plain, probe))],
    }
    adaptor = partial(methods.matryoshka, plain, seed, STEPS, BATCH, probe)
    return {
        **(once if seed == 0 else {}),
        "matryoshka": [("matryoshka", adaptor)],
        "st": [trainer(*PEER_BEST)],
        "st-others": [trainer(*other) for other in PEER_OTHERS],
    }


def own(task: Task, seed: int, probe: bool) -> dict[str, list[Job]]:
    """Key and job of every row of our recipes, by recipe."""
    plain = task.unlabelled()

    def at_each_k(name: str, data: Task, label: str, **settings: float) -> list[Job]:
        return [
            (
                f"{label}-{k}".replace(" ", "-"),
                partial(
                    methods.ours, data, name, seed, STEPS, False, f"{label}, k={k}", k=k, **settings
                ),
            )
            for k in (2, 4, 32)
        ]

    def nested(key: str, label: str, **settings: object) -> Job:
        work = partial(methods.ours, plain, "nested", seed, None, probe and key == "default")
        return key, partial(work, label, **settings)

    found: dict[str, list[Job]] = {
        "default": [nested("default", "default")],
        "curriculum": [nested("curriculum", "default, curriculum=0.5", curriculum=0.5)],
        "csr": at_each_k("csr", plain, "csr"),
        "csrv2": at_each_k("csrv2", task, "csrv2"),
        "sae": at_each_k("csr", plain, "plain SAE", contrastive_weight=0.0),
        "each-k": [nested(f"each-{k}", f"default for k={k} alone", k=k, ks=(k,)) for k in KS],
        "ablation": [
            nested(f"without-{part.replace(' ', '-')}", f"default without {part}", **settings)
            for part, settings in ABLATION.items()
        ],
    }
    if task.labels is not None or task.pairs is not None:
        supervised = partial(methods.ours, task, "nested", seed, None, probe, "default, supervised")
        found["labelled"] = [("labelled", supervised)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="sentence-transformers model, path or id")
    parser.add_argument("--data", required=True, type=Path, help="folder of the sets")
    parser.add_argument("--output", type=Path, default=Path("quality"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument(
        "--recipes", default="dense,pca,matryoshka,st,st-others,default,labelled,csr,csrv2,sae"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--probe", action="store_true", help="logistic regression and v-measure")
    parser.add_argument("--no-halves", action="store_true", help="leave out unseen documents")
    args = parser.parse_args()
    chosen = set(args.recipes.split(","))
    unknown = chosen - set(RECIPES)
    if unknown:
        parser.error(f"unknown recipes {sorted(unknown)}; choose among {RECIPES}")
    encoder = []

    def embed(texts: list[str]) -> np.ndarray:
        if not encoder:
            from sentence_transformers import SentenceTransformer

            encoder.append(SentenceTransformer(args.model))
        return encoder[0].encode(texts, batch_size=64, show_progress_bar=True)

    rows: list[Row] = []
    for name in args.sets.split(","):
        whole = load(name, args.data, args.output / "vectors", embed)
        tasks = [whole]
        if whole.kind == "retrieval" and not args.no_halves:
            tasks.append(whole.halved())
        for task in tasks:
            for seed in range(args.seeds):
                probe = args.probe and seed == 0
                found = {**peers(task, seed, probe), **own(task, seed, probe)}
                for recipe in (name for name in RECIPES if name in chosen and name in found):
                    for key, work in found[recipe]:
                        kept = f"{task.name}-{key}-{seed}"
                        rows.append(_kept(args.output / "rows", kept, work))
        report([row for row in rows if row.task.startswith(name)])
    report(rows, overall=True)
    args.output.mkdir(parents=True, exist_ok=True)
    result = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
    (args.output / "quality.json").write_text(result)
    draw(rows, args.output / "quality.png")


def _kept(folder: Path, key: str, work: Callable[[], Row]) -> Row:
    path = folder / f"{key.replace(' ', '_')}.json"
    if path.exists():
        stored = json.loads(path.read_text())
        stored["figures"] = {
            s: {int(k): v for k, v in r.items()} for s, r in stored["figures"].items()
        }
        stored["dead"] = stored["dead"] and {int(k): v for k, v in stored["dead"].items()}
        return Row(**stored)
    row = work()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(row)))
    print(f"{key}: {row.seconds:.0f} s", flush=True)
    return row


if __name__ == "__main__":
    main()
