"""The command that ranks backbones for a data set."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from tl_jax.cli import streams
from tl_jax.config import Config
from tl_jax.selection import measures, table
from tl_jax.selection import rank as ranking

# Fields are options without a prefix, as in `train`.
_Config = Annotated[Config, tyro.conf.arg(name="")]


def rank(
    file: Positional[Path],
    config: _Config,
    *,
    models: tuple[str, ...],
    to: Path = Path("ranking"),
    scores: tuple[str, ...] = measures.NAMES,
    sort_by: str = "",
    task: str | None = None,
    cache_dir: Path | None = None,
    timing: bool = True,
    seed: int = 0,
) -> None:
    """Ranks backbones for the data of a configuration by frozen features, without training.

    The first argument is the configuration file; every field of it can be changed here. Its data
    are taken, and of the model section the type of the computation, and the weights of the network
    that it names.

    Args:
      file: The configuration file.
      config: Its content, changed by the options.
      models: Candidates: NAME, NAME@SIZE for images of SIZE pixels, NAME:stageK for the means of
        the maps of a stage, NAME@SIZE:stageK for both. A name is timm's, the folder of a run or of
        weights, or "hf-hub:OWNER/REPO".
      to: Folder that gets ranking.json, ranking.txt and ranking.png.
      scores: Some of knn, linear_probe, logme, h_score, leep and nleep.
      sort_by: The score by which the table is sorted; the default is linear_probe, or the first.
      task: Task of the configuration; the default is the main one.
      cache_dir: Folder in which features are cached; the default is in the library's cache.
      timing: Measure images a second and memory, for which each network is compiled once more.
      seed: Of the held-out part by which penalties are chosen, and of the clusters of nleep.
    """
    if sort_by and sort_by not in scores:
        raise ValueError(
            f"got --sort-by {sort_by}; expected one of the scores: {', '.join(scores)}"
        )
    result = ranking.rank(
        config, models, scores=scores, task=task, to=to, cache_dir=cache_dir, timing=timing,
        seed=seed, say=streams.complain,
    )  # fmt: skip
    for note in result["notes"]:
        print(f"note: {note}")
    print(table.table(result, sort_by=sort_by or None))
    print(f"{to} holds ranking.json, ranking.txt and ranking.png")
