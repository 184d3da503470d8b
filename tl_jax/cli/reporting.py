"""The command that writes a page on a run, or on several that are compared."""

from pathlib import Path

from tyro.conf import Positional

from tl_jax.reporting import report as reporting


def report(
    runs: Positional[tuple[Path, ...]],
    *,
    to: Path | None = None,
    gallery: int = 8,
    predict: bool = True,
) -> None:
    """Writes one HTML page on a run, or on several that are compared, with pictures and tables.

    The page needs no network and no other file. The numbers are those of the runs' report.json;
    what the page adds is written as JSON beside it.

    Args:
      runs: Folders of the runs; the others are compared with the first.
      to: HTML file to write; the default is report.html in the folder of the run, and for several
        comparison.html here.
      gallery: How many of the largest losses of each task are shown, with what speaks for the
        answer (Grad-CAM); 0 for none.
      predict: Run the networks again on the examples that they were measured on, for the gallery
        and for intervals of differences between runs.
    """
    found = reporting.report(runs, to=to, gallery=gallery, predict=predict)
    for run in found["runs"]:
        if run["no_gallery"] and gallery:
            print(f"{run['name']}: {run['no_gallery']}")
    for each in found["differences"]:
        if "reason" in each:
            print(f"{each['run']} is not compared with {each['baseline']}: {each['reason']}")
    for run in found["runs"]:
        print(f"numbers of {run['name']}: {run['report'] or 'none, it has no report'}")
    page, beside = found["files"]
    print(f"wrote {page}, and what it adds as JSON to {beside}")
