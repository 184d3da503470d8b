"""The ranking of backbones for a data set: one pass of each, its scores and what it costs."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tl_jax import files, messages, process
from tl_jax.config import Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.models.outputs import output_shapes
from tl_jax.probes.extract import extract
from tl_jax.run.data import load_options
from tl_jax.selection import candidates, cost, measures
from tl_jax.selection.candidates import Backbone, Candidate
from tl_jax.selection.labelled import Labelled, open_labelled
from tl_jax.selection.measures import NAMES, Seen

# What ends one backbone and not the others: weights that are not found, features that are not
# finite, an image that is too small for it, memory that does not suffice.
_FAILURES = (ValueError, OSError, FloatingPointError, jax.errors.JaxRuntimeError)


def rank(
    config: Config,
    models: Sequence[str],
    *,
    scores: Sequence[str] = NAMES,
    task: str | None = None,
    to: str | Path | None = None,
    cache_dir: str | Path | None = None,
    timing: bool = True,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Ranks backbones for a data set by their frozen features, without training a network.

    Each runs once over the training split, on which the scores are computed, and over the split
    that its probes are tested on; the features are kept on disk.

    Args:
      config: the experiment, of which the data are taken, the type of the computation, and the
        weights of the network that its `model` section names.
      models: candidates, each `NAME`, `NAME@SIZE` (side of the images), `NAME:stageK` (the mean of
        the maps of a stage in the place of the network's features) or `NAME@SIZE:stageK`. A name is
        timm's, the folder of a run or of weights, or "hf-hub:OWNER/REPO".
      scores: some of "knn", "linear_probe", "logme", "h_score", "leep" and "nleep"
        (`tl_jax.selection.scores` has the last four; "nleep" needs scikit-learn).
      task: the task of the configuration; None for the main one.
      to: folder that gets ranking.json, ranking.txt and ranking.png; None writes none.
      cache_dir: folder of the features; None for "features" in the cache of the library.
      timing: whether images a second and memory are measured, for which each network is compiled
        once more.
      seed: of the held-out part by which penalties are chosen, and of NLEEP's clusters.
      say: is given a line about each candidate.

    Returns:
      JSON values: "rows" in the order of `models`, each with its "scores" (a "value", or why it is
      "undefined"), its cost, and an "error" in their place where a backbone failed; "order", the
      candidates of each score from the best on; and what the ranking is of.

    Raises:
      ValueError: if a candidate or a score is misspelt, the data cannot be used, or every candidate
        failed.

    Examples:
      >>> from tl_jax.config import DataConfig, ModelConfig, TrainConfig
      >>> from tl_jax.run.fit import fit
      >>> network = ModelConfig("simple_cnn", weights="random")
      >>> data = DataConfig("digits", shots=5, image_size=16)
      >>> report = fit(Config(network, data, train=TrainConfig(epochs=1)), "runs/digits")
      >>> found = rank(Config(data=data), ["runs/digits"], scores=["knn"], cache_dir="features",
      ...              timing=False)
      >>> found["rows"][0]["scores"]["knn"]["value"] > 0.5
      True
    """
    parsed = _checked(models, scores)
    process.prepare()
    labelled = open_labelled(config, task)
    folder = files.cache_dir() / "features" if cache_dir is None else files.user_path(cache_dir)
    job = _Job(config, labelled, tuple(scores), folder, timing, seed)
    rows: dict[str, dict[str, Any]] = {}
    for group in _groups(parsed):
        try:
            for row in job.rows(group):
                rows[row["model"]] = row
                say(f"{row['model']}: {row['seconds']:.0f} s")
        except _FAILURES as error:
            for candidate in group:
                rows[candidate.text] = _failed(candidate, error)
                say(f"{candidate.text}: {rows[candidate.text]['error']}")
    result = {**job.facts(), "rows": [rows[candidate.text] for candidate in parsed]}
    result["order"] = {name: order(result["rows"], name) for name in scores}
    if all(row["error"] is not None for row in result["rows"]):
        raise ValueError(f"no candidate could be ranked; the first: {result['rows'][0]['error']}")
    if to is not None:
        _write(result, files.user_path(to))
    return result


def order(rows: Sequence[dict[str, Any]], score: str) -> list[str]:
    """Returns the candidates that have a score, the best first; of equals in their order."""
    valued = [row for row in rows if row["error"] is None]
    valued = [row for row in valued if row["scores"][score]["value"] is not None]
    return [row["model"] for row in sorted(valued, key=lambda r: -r["scores"][score]["value"])]


def _checked(models: Sequence[str], scores: Sequence[str]) -> list[Candidate]:
    if isinstance(models, str) or not len(models):
        raise ValueError(f"got models={models!r}; expected a list of candidates, at least one")
    for name in scores:
        if name not in NAMES:
            raise ValueError(
                f"there is no score {name!r}{messages.hint(name, NAMES)}; expected some of "
                f"{', '.join(NAMES)}"
            )
    if not len(scores):
        raise ValueError(f"got no scores; expected some of {', '.join(NAMES)}")
    return [candidates.parse(text) for text in dict.fromkeys(models)]


def _groups(parsed: Sequence[Candidate]) -> list[list[Candidate]]:
    """Returns the candidates that share a pass: one network at one image size."""
    groups: dict[tuple[str, int | None], list[Candidate]] = {}
    for candidate in parsed:
        groups.setdefault((candidate.name, candidate.image_size), []).append(candidate)
    return list(groups.values())


def _failed(candidate: Candidate, error: BaseException) -> dict[str, Any]:
    reason = " ".join(str(error).split())
    return {**dataclasses.asdict(candidate), "model": candidate.text, "error": reason}


@dataclasses.dataclass(frozen=True)
class _Job:
    """A ranking: its data, and how candidates are computed."""

    config: Config
    labelled: Labelled
    scores: tuple[str, ...]
    cache_dir: Path
    timing: bool
    seed: int

    def facts(self) -> dict[str, Any]:
        """Returns what the ranking is of."""
        train, held_out, task = self.labelled.train, self.labelled.held_out, self.labelled.task
        return {
            "source": self.config.data.source,
            "split": train.split,
            "count": len(train),
            "held_out_split": held_out.split,
            "held_out_count": len(held_out),
            "task": task.name,
            "kind": task.kind,
            "classes": len(task.class_names),
            "dtype": self.config.model.dtype,
            "device": jax.devices()[0].device_kind,
            "scores": {name: measures.meaning(name, task.kind) for name in self.scores},
            "notes": list(self.labelled.notes),
        }

    def rows(self, group: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
        """Yields the rows of candidates that share a pass."""
        start = time.perf_counter()
        backbone = candidates.load(group[0].name, self.config)
        side = group[0].image_size
        if side is not None:
            sized = dataclasses.replace(backbone.preprocess, size=(side, side))
            backbone = dataclasses.replace(backbone, preprocess=sized)
        at = candidates.of_stages(backbone, group)
        train, train_labels, cached = self._features(backbone, at, self.labelled.train)
        held_out, held_out_labels, _ = self._features(backbone, at, self.labelled.held_out)
        feature_seconds = time.perf_counter() - start
        for candidate in group:
            name = "" if candidate.stage is None else backbone.stages[candidate.stage]
            whole = name == ""
            seen = Seen(
                train[name], train_labels, held_out[name], held_out_labels,
                backbone.probabilities(train[name]) if whole else None,
                backbone.no_classifier if whole else "the classifier is not that of a stage",
            )  # fmt: skip
            row = self._row(candidate, backbone, name, seen)
            row |= {"features_from_cache": cached, "feature_seconds": feature_seconds}
            yield row | {"seconds": time.perf_counter() - start}
            start = time.perf_counter()

    def _features(
        self, backbone: Backbone, at: Sequence[str], source: Any
    ) -> tuple[dict[str, np.ndarray], np.ndarray, bool]:
        """Returns the features of a split by module, its labels, and whether they were cached."""
        extracted = extract(
            candidates.features_of(backbone, at),
            backbone.variables,
            source,
            preprocess=backbone.preprocess,
            storage_dtype=self.config.model.dtype,
            load_options=load_options(self.config.data),
            cache_dir=self.cache_dir,
        )
        widths = _widths(backbone, at) if len(at) > 1 else []
        parts = np.split(extracted.features[0], np.cumsum(widths)[:-1], axis=1) if widths else []
        parts = parts or [extracted.features[0]]
        return dict(zip(at, parts, strict=True)), extracted.labels, extracted.from_cache

    def _row(self, candidate: Candidate, backbone: Backbone, at: str, seen: Seen) -> dict[str, Any]:
        preprocess: Preprocess = backbone.preprocess
        spent = cost.measure(
            candidates.features_of(backbone, (at,)),
            backbone.variables,
            preprocess.size,
            parameters=cost.count_parameters(backbone.model, backbone.stages, candidate.stage),
            batch_size=self.config.data.batch_size,
            timing=self.timing,
        )
        task = self.labelled.task
        found = {name: measures.compute(name, seen, task, self.seed) for name in self.scores}
        return {
            "model": candidate.text,
            "name": candidate.name,
            "weights": backbone.weights,
            "image_size": preprocess.size[0],
            "stage": at or None,
            "width": seen.train.shape[1],
            "scores": {name: dataclasses.asdict(value) for name, value in found.items()},
            **dataclasses.asdict(spent),
            "error": None,
        }


def _widths(backbone: Backbone, at: Sequence[str]) -> list[int]:
    """Returns the number of features of each module."""
    shape = (1, *backbone.preprocess.size, backbone.model.in_channels)
    shapes = output_shapes(backbone.model, backbone.variables, shape)
    by_name = {".".join(path): calls[0] for path, calls in shapes.items()}
    return [by_name[name].shape[-1] for name in at]


def _write(result: dict[str, Any], folder: Path) -> None:
    from tl_jax.selection import picture, table  # Here, because matplotlib loads slowly.

    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "ranking.json", files.json_text(result, indent=2) + "\n")
    files.write_text(folder / "ranking.txt", table.table(result) + "\n")
    picture.draw(result, folder / "ranking.png")
