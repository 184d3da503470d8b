"""Writes one page on a run, or on several that are compared, which anybody's browser opens."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_jax import arguments, distributed, files, process
from tl_jax.config import Config, json_format
from tl_jax.reporting import charts, commands, page, results, summary
from tl_jax.reporting.again import Seen, see
from tl_jax.reporting.differences import differences
from tl_jax.reporting.gallery import Tile, as_json, galleries
from tl_jax.reporting.read import RunFiles, read_runs
from tl_jax.run.phases import phase_configs
from tl_jax.trees import dotted
from tl_jax.version import __version__

Tiles = Mapping[str, Sequence[Tile]]


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    to: str | Path | None = None,
    gallery: int = 8,
    predict: bool = True,
) -> dict[str, Any]:
    """Writes one page on a run, or on several that are compared: HTML that needs no network.

    All numbers that a run has measured are those of its `report.json`. What the page adds is
    written as JSON beside it.

    Args:
      runs: folder of a run, or of several. The others are compared with the first.
      to: HTML file to write; the default is `report.html` in the folder of the run, and for several
        `comparison.html` in the current folder. `report.html` has `report-page.json` beside it.
      gallery: how many of the largest losses of each task are shown, with what speaks for the
        answer (Grad-CAM); 0 for none.
      predict: whether the networks may be run again on the examples that they were measured on, for
        the gallery and for intervals of differences. Where that cannot be done, because the data
        are gone or have changed, the page says so.

    Returns:
      JSON values: "runs", for each "name", "path", "report" (its file), "begun", "seconds",
      "options" (that differ from the defaults), "commands" and "gallery" by task, or None with
      "no_gallery" as the reason; "options" that differ between runs; "differences" of metrics from
      the first run; "notes"; "files", the page and the JSON.

    Raises:
      ValueError: if a run is named twice, or a file of a run is damaged.
      FileNotFoundError: if a folder holds no run.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> _ = tl_jax.fit(config, "runs/digits")
      >>> report("runs/digits", gallery=0)["files"]
      ['runs/digits/report.html', 'runs/digits/report-page.json']
    """
    arguments.whole_number("gallery", gallery, least=0)
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    found = read_runs(paths)
    file = _file(found, to)
    told, tiles = _told(found, gallery, predict=predict)
    beside = file.with_name(f"{file.stem}-page.json")
    told = json.loads(files.json_text({**told, "files": [str(file), str(beside)]}))
    again = commands.page_command(found, file, gallery, predict=predict)

    def write() -> None:
        files.write_text(file, _page(found, told, tiles, beside, again))
        files.write_text(beside, files.json_text(told, indent=1) + "\n")

    distributed.first(write)
    return told


def _file(runs: Sequence[RunFiles], to: str | Path | None) -> Path:
    if to is None:
        return runs[0].path / "report.html" if len(runs) == 1 else Path("comparison.html")
    file = files.user_path(to)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"got the file {file} to write a page to; expected a name in .html")
    return file


def _told(
    runs: Sequence[RunFiles], most: int, *, predict: bool
) -> tuple[dict[str, Any], list[Tiles | str]]:
    """Returns what the page adds to the reports, and of each run its gallery or why it has none."""
    several = len(runs) > 1
    seen = [_seen(run, wanted=predict and (bool(most) or several)) for run in runs]
    tiles = [_gallery(run, of_run, most) for run, of_run in zip(runs, seen, strict=True)]
    told = {
        "runs": [_run(run, runs[0], of_run) for run, of_run in zip(runs, tiles, strict=True)],
        "options": _differing([run.config for run in runs], [run.name for run in runs]),
        "differences": differences(runs, seen),
        "notes": [
            f"{run.name}: {warning}" if several else warning
            for run in runs
            for warning in run.info.warnings
        ],
    }
    return told, tiles


def _seen(run: RunFiles, *, wanted: bool) -> Seen | str:
    if not wanted:
        return "the network was not to be run again for this page"
    if run.report is None:
        return "the run has no report, whose numbers a gallery would explain"
    process.prepare()
    return see(run)


def _gallery(run: RunFiles, seen: Seen | str, most: int) -> Tiles | str:
    """Returns the gallery of a run, or a sentence on why there is none."""
    if not most:
        return "No gallery of errors was asked for."
    if isinstance(seen, str):
        return f"There is no gallery of errors: {seen}."
    try:
        return galleries(run, seen, most)
    except ValueError as error:
        return f"There is no gallery of errors, because they cannot be explained: {error}."


def _run(run: RunFiles, first: RunFiles, tiles: Tiles | str) -> dict[str, Any]:
    """Returns what the page adds to the report of a run, as JSON."""
    typed = commands.commands(run, None if run is first else first)
    return {
        "name": run.name,
        "path": str(run.path),
        "report": None if run.report is None else str(run.path / "report.json"),
        "begun": run.times[0][0] if run.times else None,
        "seconds": summary.seconds(run),
        "options": _differing([Config(), run.config], ["default", "run"]),
        "commands": [{"what": what, "command": command} for what, command in typed],
        "gallery": None if isinstance(tiles, str) else as_json(tiles),
        "no_gallery": tiles if isinstance(tiles, str) else None,
    }


def _differing(configs: Sequence[Config], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the options in which configurations differ, and the value of each in each."""
    flat = [
        {dotted(path): value for path, value in json_format.flat(config).items()}
        for config in configs
    ]
    return {
        option: {name: values[option] for name, values in zip(names, flat, strict=True)}
        for option in summary.differing(configs)
    }


def _page(
    runs: Sequence[RunFiles],
    told: Mapping[str, Any],
    tiles: Sequence[Tiles | str],
    beside: Path,
    again: str,
) -> str:
    """Returns the HTML."""
    several = len(runs) > 1
    first = runs[0].config
    title = f"{len(runs)} runs compared" if several else f"Report of {runs[0].name}"
    networks = ", ".join(dict.fromkeys(run.config.model.name for run in runs))
    sources = ", ".join(dict.fromkeys(run.config.data.source for run in runs))
    return page.render(
        title=title,
        subtitle=f"{networks} on {sources}",
        version=__version__,
        written=summary.clock(time.time()),
        width=charts.WIDTH,
        height=charts.HEIGHT,
        notes=told["notes"],
        training=summary.training(runs),
        options=summary.options(runs),
        curves=charts.learning_curves(runs, () if several else _phase_ends(first)),
        metrics=_metrics(runs),
        differences=results.differences_table(told["differences"], runs[0].name),
        reasons=[
            f"{each['run']} is not compared with {each['baseline']}: {each['reason']}."
            for each in told["differences"]
            if "reason" in each
        ],
        meanings=results.meanings(runs),
        runs=[
            _run_context(run, said, of_run)
            for run, said, of_run in zip(runs, told["runs"], tiles, strict=True)
        ],
        environment=summary.environment(runs),
        page_command=again,
        reports=[said["report"] for said in told["runs"] if said["report"]],
        json_file=str(beside),
    )


def _phase_ends(config: Config) -> list[int]:
    """Returns the epochs at which the phases of a run end, but the last."""
    ends, done = [], 0
    for phase in phase_configs(config)[:-1]:
        done += phase.epochs
        ends.append(done)
    return ends


def _metrics(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    """Returns for each task that was measured its chart of runs and its tables."""
    found = [
        {
            "name": task,
            "forest": charts.forest(runs, task),
            "tables": results.metrics_tables(runs, task),
        }
        for task in results.task_names(runs)
    ]
    return [task for task in found if task["tables"]]


def _run_context(run: RunFiles, said: Mapping[str, Any], tiles: Tiles | str) -> dict[str, Any]:
    """Returns what the template says of one run."""
    return {
        "name": run.name,
        "shown": run.shown,
        "cards": results.cards(run),
        "tasks": [
            {
                "name": task.name,
                "confusion": _confusion(run, task.name),
                "pairs": results.pairs_table(run, task.name),
                "classes": results.class_table(run, task.name),
                "reliability": _reliability(run, task.name),
                "tiles": () if isinstance(tiles, str) else tiles.get(task.name, ()),
                "has_probabilities": task.kind in ("multi_class", "ordinal"),
                "is_calibrated": task.name in (run.report or {}).get("calibration", {}),
            }
            for task in run.tasks
        ],
        "no_gallery": tiles if isinstance(tiles, str) else "",
        "commands": [(each["what"], each["command"]) for each in said["commands"]],
    }


def _confusion(run: RunFiles, task: str) -> charts.Matrix | None:
    counts = results.matrix(run, task)
    names = next(each.class_names for each in run.tasks if each.name == task)
    return None if counts is None else charts.confusion(counts, names)


def _reliability(run: RunFiles, task: str) -> list[charts.Diagram]:
    """Returns the diagrams of a task: as trained, and with what was chosen after training."""
    found = []
    for name, metrics in (
        ("as trained", run.metrics(run.shown, task)),
        ("with the temperature", run.calibrated(run.shown, task)),
    ):
        if metrics.get("reliability"):
            error = metrics.get("calibration_error") or 0.0
            title = f"{name}, calibration error {error:.3f}"
            found.append(charts.reliability(title, metrics["reliability"]))
    return found
