"""Measures how far the ranking of backbones agrees with their accuracy after fine-tuning.

    python -m experiments.ranking [--sets digits fashion_mnist elpv stamps] [--fashion SPEC]
        [--stamps FOLDER_OR_DEB] [--only NAME ...] [--results DIR] [--workdir DIR] [--quick]

Thirteen candidates (networks with ImageNet's weights at two sizes and cut off at a stage, networks
that are trained here on small sets, and random ones) are scored by `tl_jax.rank` on the images of
each set that are for training and validation, and then fine-tuned on the same images by one recipe,
whose rate is chosen of two for each candidate by the validation images of the first set. Their
accuracy on the test images is what a score should have told. A training that is done is not done
again; the same command goes on where it was stopped.

`ranking.json`, `.md` and `.png` in the folder of results hold the result. Takes some 45 minutes of
a core; the stamps, which are left out unless they are named, some 15 more. The photographs of solar
cells are under CC-BY-NC-SA-4.0.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tl_jax
from experiments import ranking_report as report
from experiments import strategies_stamps as stamps
from experiments.ranking_agreement import Measured
from experiments.ranking_candidates import (
    BATCH_SIZE,
    CANDIDATES,
    RATES,
    SETS,
    START,
    USUAL_SETS,
    Candidate,
    Set,
    model_of,
    run_of,
    sets_of,
    starts,
)
from experiments.strategies import best_rates
from experiments.strategies_run import Bench, Job
from experiments.tasks_run import Workers
from tl_jax import config as configuration
from tl_jax import files
from tl_jax.config import Config
from tl_jax.selection.measures import NAMES

RESULTS, WORKDIR = Path("experiments/results/ranking"), Path("runs/ranking")


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the weights, the scores and the missing trainings, and writes the result."""
    arguments = _parse(argv)
    chosen = [each for each in CANDIDATES if not arguments.only or each.name in arguments.only]
    sets = sets_of(arguments)
    with contextlib.closing(Workers(measured)) as workers:
        bench = Bench(arguments.workdir / "rows", arguments.workdir, 1, workers.launch)
        needed = {each.weights for each in chosen}
        begin = [run for run in starts(arguments) if run.method in needed]
        made = bench.rows(begin)
        ready = {"package", *(row["method"] for row in made)}
        chosen = [each for each in chosen if each.weights in ready]
        scored = {name: scores(name, each, chosen, arguments) for name, each in sets.items()}
        (first, first_set), *others = sets.items()
        search = [
            run_of(first_set, first, candidate, rate, arguments)
            for candidate in chosen
            for rate in RATES[: 1 if arguments.quick else None]
        ]
        rates = best_rates(bench.rows(search))
        rest = [
            run_of(each, name, candidate, rates[candidate.name], arguments)
            for name, each in others
            for candidate in chosen
            if candidate.name in rates
        ]
        bench.rows(rest)
    rows, runs = bench.finished_rows([*search, *rest]), [*begin, *search, *rest]
    summary = {
        "protocol": _protocol(scored, made, rows),
        **summarize(scored, rows, chosen, rates),
        "failures": bench.failures(runs),
    }
    report.write(summary, arguments.results)
    print((arguments.results / "ranking.md").read_text())


def _protocol(
    scored: Mapping[str, Any], made: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "rates": sorted({row["rate"] for row in rows}),
        "epochs": rows[0]["config"]["train"]["epochs"],
        "batch_size": BATCH_SIZE,
        "trainings": len(rows),
        "seconds": round(sum(row["seconds"] for row in [*made, *rows])),
        "sets": {name: ranked["facts"] for name, ranked in scored.items()},
        "starts": {row["method"]: row["test"]["accuracy"] for row in made},
    }


def summarize(
    scored: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    candidates: Sequence[Candidate],
    rates: Mapping[str, float],
) -> dict[str, Any]:
    """Returns what was measured of the candidates that were ranked and trained on every set.

    Args:
      scored: of `scores`, by set.
      rows: of all trainings.
      candidates: which were asked for.
      rates: the rate of each that was chosen.
    """
    best = {(row["set"], row["method"]): row for row in rows if row["rate"] == rates[row["method"]]}
    complete = [
        each
        for each in candidates
        if all(each.name in of["rows"] and (name, each.name) in best for name, of in scored.items())
    ]
    found = {name: measured_set(of["rows"], best, name, complete) for name, of in scored.items()}
    return {
        "left_out": [each.name for each in candidates if each not in complete],
        "rates": [rates[each.name] for each in complete],
        **report.summarize(found, [dataclasses.asdict(each) for each in complete]),
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [each.name for each in CANDIDATES]
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(USUAL_SETS))
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=[])
    parser.add_argument("--fashion", default="fashion_mnist", help="specification of the set")
    parser.add_argument("--stamps", type=Path, default=stamps.INSTALLED, help="folder or .deb")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--quick", action="store_true", help="a dry run: one epoch, few images")
    arguments = parser.parse_args(argv)
    workdir = Path("runs/ranking-quick") if arguments.quick else WORKDIR
    arguments.workdir = arguments.workdir or workdir
    arguments.results = arguments.results or (
        arguments.workdir / "results" if arguments.quick else RESULTS
    )
    return arguments


def scores(
    name: str, chosen: Set, candidates: Sequence[Candidate], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Ranks the candidates on a set, or reads what was found before.

    Returns:
      "facts", the numbers of images and classes, and "rows", those of `tl_jax.rank` by the names of
      the candidates that did not fail.
    """
    texts = {
        f"{model_of(each, arguments.workdir)}@{each.side}"
        + ("" if each.stage is None else f":stage{each.stage}"): each.name
        for each in candidates
    }
    config = Config(data=chosen.data)
    path = arguments.workdir / f"scores-{name}.json"
    key = {"config": json.loads(configuration.to_json(config)), "models": list(texts)}
    if not path.exists() or json.loads(path.read_text())["of"] != key:
        print(f"scores on {name}", file=sys.stderr)
        ranked = tl_jax.rank(
            config, list(texts), cache_dir=arguments.workdir / "features", timing=False,
            say=lambda line: print(line.rpartition("/")[2], file=sys.stderr),
        )  # fmt: skip
        files.write_text(path, files.json_text({"of": key, **ranked}, indent=1))
    ranked = json.loads(path.read_text())
    rows = {texts[row["model"]]: row for row in ranked["rows"] if row["error"] is None}
    facts = {key: ranked[key] for key in ("count", "held_out_count", "classes")}
    return {"facts": facts, "rows": rows}


def measured(job: Job) -> dict[str, Any]:
    """Makes a run in this process.

    Returns:
      "seconds" and "test", its accuracy; of a fine-tuning also "validation", and "correct", a digit
      for each test example in their order. A run that makes weights writes them.
    """
    import jax

    from tl_jax.analysis import measured as by_example
    from tl_jax.evaluation import run_data
    from tl_jax.evaluation.export import export_timm
    from tl_jax.run.folder import load_run

    start, config = time.monotonic(), job.run.config
    jax.config.update("jax_compilation_cache_dir", str(job.compiled.absolute()))
    test_split = config.data.test_split
    if job.run.set == START:
        metrics = tl_jax.fit(config, job.folder)["metrics"][test_split]
        export_timm(job.folder, job.folder.parent / "weights" / job.run.method)
        row = {"test": {"accuracy": metrics["accuracy"]}}
    else:
        # The last epoch is what counts; the report is on the validation images.
        held_out = config.data.eval_split or ""
        data = dataclasses.replace(config.data, eval_split=None, test_split=held_out)
        metrics = tl_jax.fit(dataclasses.replace(config, data=data), job.folder)["metrics"][
            held_out
        ]
        run = load_run(job.folder)
        own = run_data.config_of(run, run_data.DataOptions())
        test = run_data.open_examples(run, own, test_split or "", is_other=False)
        (found,) = by_example.measure(run, by_example.measurer(run, own), test).values()
        row = {
            "test": {"accuracy": float(1 - found.errors.mean())},
            "validation": {key: metrics[key] for key in ("accuracy", "loss")},
            "correct": "".join("01"[int(error == 0)] for error in found.errors),
        }
    jax.clear_caches()  # Programs of this run, which the next does not use.
    return {**row, "seconds": time.monotonic() - start}


def baselines(candidate: Candidate, row: Mapping[str, Any]) -> dict[str, float]:
    """Returns orders that look at no image of the set: the larger, the better.

    Args:
      candidate: with its place by the accuracy on ImageNet.
      row: of `tl_jax.rank`, which counts parameters and FLOPs.
    """
    return {
        "parameters": float(row["parameters"]),
        "flops": float(row["flops"]),
        "imagenet": float(candidate.imagenet),
    }


def measured_set(
    ranked: Mapping[str, Mapping[str, Any]],
    best: Mapping[tuple[str, str], Mapping[str, Any]],
    name: str,
    candidates: Sequence[Candidate],
) -> Measured:
    """Returns scores and test results of the candidates on a set.

    Args:
      ranked: "rows" of `scores`.
      best: row of the chosen rate by set and candidate.
      name: of the set.
      candidates: those that were ranked and trained on every set.
    """
    values: dict[str, list[float]] = {}
    for each in candidates:
        row = ranked[each.name]
        found = {score: row["scores"][score]["value"] for score in NAMES} | baselines(each, row)
        for score, value in found.items():
            values.setdefault(score, []).append(np.nan if value is None else value)
    correct = [[digit == "1" for digit in best[name, each.name]["correct"]] for each in candidates]
    return Measured(np.array(correct), {score: np.array(of) for score, of in values.items()})


if __name__ == "__main__":
    main()
