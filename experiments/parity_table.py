"""The rows of the comparisons with torch, one file per family, and the tables made of them."""

import json
from pathlib import Path
from typing import Any

from tl_jax import files
from tl_jax.models import registry
from tl_jax.weights import index

FOLDER = Path(__file__).parent / "results" / "parity"
ROOT = Path(__file__).parents[1]
_HEADER = (
    "| architecture | parameters | layers | logits | stages | statistics | gradient | export | |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
)
_NOTES = (
    "Images are normalised floats, [batch, height, width, channels]. Other types and shapes are",
    "refused, and images of which nothing would be left in the last map, naming the smallest",
    "that the network takes: 32 pixels for a VGG, 75 for Inception-v3, 1 for most. Equal",
    "networks are equal objects, and can be pickled and copied.",
    "",
    "timm's former names (`tf_efficientnet_b0_ns`) and `timm/NAME` mean what they mean in timm.",
    "Checkpoints under other publishers' names load as they are: torchvision's of every family",
    "that is here, the original ConvNeXts' and `efficientnet-pytorch`'s. Where such a network",
    "computes otherwise (torchvision's MobileNetV3, EfficientNet-B5 to B7 and V2 have another",
    "epsilon in BatchNorm), `load_pretrained` makes that network and says so; a run refuses the",
    "weights. torchvision's VGGs equal timm's on images of 224 pixels, and pool otherwise on",
    "others.",
    "",
)
_FAMILY_HEADER = (
    "| family | architectures | weights | papers | worst logits | worst stage | worst gradient |",
    "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
)


def read_rows(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Returns all rows by architecture, in the registry's order."""
    rows = {}
    for family in registry.FAMILIES:
        path = folder / f"{family}.jsonl"
        text = path.read_text("utf-8") if path.exists() else ""
        rows |= {row["name"]: row for row in map(json.loads, text.splitlines())}
    return {name: rows[name] for name in registry.ARCHITECTURES if name in rows}


def write_row(row: dict[str, Any], folder: Path = FOLDER) -> None:
    """Writes a row to its family's file; it replaces an earlier row of that architecture."""
    family = registry.family_of(row["name"])
    rows = read_rows(folder) | {row["name"]: row}
    names = [name for name in registry.FAMILIES[family].architectures if name in rows]
    lines = [json.dumps(rows[name]) + "\n" for name in names]
    files.write_text(folder / f"{family}.jsonl", "".join(lines))


def line(row: dict[str, Any]) -> str:
    """Returns a row as one line for the screen."""
    if "not_compared" in row:
        return f"{row['name']}: not compared: {row['not_compared']}"
    if "error" in row:
        return f"{row['name']}: FAILED: {row['error'][:300]}"
    statistics = _number(row["statistics"])
    return (
        f"{row['name']}: {'ok' if row['passed'] else 'FAILED'} "
        f"logits {row['logits']:.1e} stages {worst_stage(row):.1e} training "
        f"{row['training_logits']:.1e} statistics {statistics} gradient {row['gradient']:.1e} "
        f"({row['gradient_in']}) {'' if row['export_is_bit_equal'] else 'EXPORT DIFFERS '}"
        f"{row['seconds']:.0f} s"
    )


def worst_stage(row: dict[str, Any]) -> float:
    """Returns the largest error of a row's stage features."""
    return max(row["stages"].values())


def summary(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the line that sums all rows up."""
    passed = [row for row in rows.values() if row.get("passed")]
    failed = [row["name"] for row in rows.values() if row.get("passed") is False]
    not_compared = [row["name"] for row in rows.values() if "not_compared" in row]
    missing = [name for name in registry.ARCHITECTURES if name not in rows]
    parts = [f"{len(passed)} of {len(registry.ARCHITECTURES)} architectures equal their peers"]
    for what, names in (
        ("failed", failed),
        ("not compared", not_compared),
        ("not yet run", missing),
    ):
        if names:
            parts.append(
                f"{len(names)} {what} ({', '.join(names[:8])}{', ...' * (len(names) > 8)})"
            )
    if passed:
        parts.append(
            f"worst logits {max(r['logits'] for r in passed):.1e}, "
            f"stage {max(worst_stage(r) for r in passed):.1e}, "
            f"gradient {max(r['gradient'] for r in passed):.1e}"
        )
    return "; ".join(parts) + "."


def write() -> str:
    """Writes both tables from the rows on disk, and returns the summary line."""
    rows = read_rows()
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.joinpath("README.md").write_text(table(rows), "utf-8")
    docs = ROOT / "docs"
    docs.mkdir(exist_ok=True)
    docs.joinpath("architectures.md").write_text(family_table(rows), "utf-8")
    return summary(rows)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the table of all rows, in Markdown."""
    lines = [
        "# Every architecture beside its peer in torch",
        "",
        "Written by `python -m experiments.parity`, which says what is compared and how.",
        "Relative errors in float32; a gradient marked `64` was compared in float64, because",
        "in float32 rounding moves a few pre-activations across the kink of a ReLU.",
        "",
        summary(rows),
        "",
        *_HEADER,
    ]
    lines += [_table_line(row) for row in rows.values()]
    return "\n".join(lines) + "\n"


def _table_line(row: dict[str, Any]) -> str:
    if "logits" not in row:
        reason = row.get("not_compared") or f"failed: {row['error'].splitlines()[0]}"
        return f"| `{row['name']}` | | | | | | | | {reason} |"
    gradient = _number(row["gradient"]) + (" `64`" if row["gradient_in"] == "float64" else "")
    cells = [
        f"`{row['name']}`",
        f"{row['parameters']:,}",
        str(row["layers"]),
        _number(row["logits"]),
        _number(worst_stage(row)),
        _number(row["statistics"]),
        gradient,
        "bit-equal" if row["export_is_bit_equal"] else "differs",
        "" if row["passed"] else "failed",
    ]
    return f"| {' | '.join(cells)} |"


def family_table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the table of the families and their worst errors, in Markdown."""
    lines = [
        "# Architectures",
        "",
        "The families, under the names of timm's files (torchvision's, for names that begin with",
        "`torchvision/`). `python -m tl_jax models` lists the architectures with their sizes, and",
        "`--pretrained` the weights with input size, classes and licence. The errors are the worst",
        "of the family against timm and torchvision, relative, as measured by",
        "`python -m experiments.parity`; `experiments/results/parity/` has every architecture's.",
        "",
        *_NOTES,
        *_FAMILY_HEADER,
    ]
    published = [name.partition(".")[0] for name in index.pretrained_names()]
    for family, about in registry.FAMILIES.items():
        passed = [rows[n] for n in about.architectures if rows.get(n, {}).get("passed")]
        papers = ", ".join(f"[{p}](https://arxiv.org/abs/{p})" for p in about.papers)
        worst = [
            _number(max((measure(row) for row in passed), default=None))
            for measure in (lambda r: r["logits"], worst_stage, lambda r: r["gradient"])
        ]
        weights = sum(name in about.architectures for name in published)
        cells = [f"`{family}`", str(len(about.architectures)), str(weights), papers, *worst]
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(name in registry.ARCHITECTURES for name in published)
    lines += ["", f"{len(registry.ARCHITECTURES)} architectures, {total} published weights."]
    lines += ["", summary(rows)]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
