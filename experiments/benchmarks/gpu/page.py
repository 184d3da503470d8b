"""The results of `experiments.benchmarks.gpu` as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

OURS, PEER = "tl_jax", "torch"
ON, OFF = "deterministic", "without"
LONGEST = 12  # Operations of a profile that are shown.


def headline(kind: str, result: Mapping[str, Any]) -> str:
    """Returns the main figure of a case in one line."""
    if kind == "steps" and "timing" in result:
        return f"{_ratio(result['timing'][OURS])} times as fast as torch"
    if kind == "forward":
        return ", ".join(f"{n}: {_ratio(part['timing'][OURS])}" for n, part in result.items())
    if kind == "heads" and "heads" in result:
        return f"{result['heads']['of_one']:.2f} times the time of one head"
    if kind == "correctness":
        large = [name for name, part in result.items() if part.get("too_large")]
        return f"too large an error: {', '.join(large)}" if large else "errors as allowed"
    if kind in ("bits", "determinism") and "different" in result:
        said = f"{result['different']} of {result['leaves']} leaves differ"
        timed = result.get("timing")
        return f"{said}; {_ratio(timed[ON])} times as fast with it" if timed else said
    return str(result.get("device", ""))


def render(whole: Mapping[str, Any]) -> str:
    """Returns all results as a page."""
    cases = whole["cases"]
    facts = cases.get("facts", {}).get("result", {})
    lines = [f"# {facts.get('device', 'a GPU that was not seen')}", ""]
    versions = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    lines += [f"{whole['date']}; {whole['seconds']:.0f} s; {versions}.", ""]
    for title, rows in (
        ("Speed of the card", _speeds(facts)),
        ("Steps beside torch", _steps(cases)),
        ("Forward pass beside torch", _forward(cases)),
        ("Each form on and off", _switches(cases)),
        ("Cached features and many heads", _heads(cases)),
        ("Augmentation and stretching", _images(cases)),
        ("Compilation and memory of one side alone", _alone(cases)),
        ("The longest operations", _profiles(cases)),
        ("Depthwise convolutions, ms", _depthwise(cases)),
        ("Correctness", _correctness(cases)),
        ("How each case ended", _ends(cases)),
    ):
        rows = list(rows)
        if len(rows) > 1:
            head, *body = rows
            lines += [
                f"## {title}",
                "",
                _row(head),
                _row(["---"] * len(head)),
                *map(_row, body),
                "",
            ]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _of(cases: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, case in cases.items():
        if name.startswith(kind) and case["result"]:
            yield name.removeprefix(kind).strip(), case["result"]


def _ratio(found: Mapping[str, Any]) -> str:
    ratio = found["wall_ratio"]
    return f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['largest']:.2f}]"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _gigabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


def _speeds(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["library", "copy, GB/s", "bfloat16 products, TFLOP/s"]
    for name in ("jax", "torch"):
        if name in facts:
            rates = facts[name]
            copy, product = rates["copy_gigabytes_per_second"], rates["bfloat16_teraflops"]
            yield [name, f"{copy:.0f}", f"{product:.0f}"]


def _steps(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["step", "tl_jax, ms", "torch, ms", "torch / tl_jax [least, largest]", "peak GB", "torch"]
    for name, result in _of(cases, "steps"):
        if "timing" not in result:
            yield [name, _milliseconds(result[OURS]["alone_seconds"]), "", "", "", ""]
            continue
        timed, peaks = result["timing"], result.get("peak_bytes", {})
        yield [
            name + (" (torch ran eagerly)" if "eager_because" in result[PEER] else ""),
            _milliseconds(timed[OURS]["wall"]),
            _milliseconds(timed[PEER]["wall"]),
            _ratio(timed[OURS]),
            _gigabytes(peaks.get(OURS)),
            _gigabytes(peaks.get(PEER)),
        ]


def _forward(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["network", "images", "tl_jax, ms", "torch, ms", "torch / tl_jax [least, largest]"]
    for name, result in _of(cases, "forward"):
        for batch, part in result.items():
            timed = part["timing"]
            walls = [_milliseconds(timed[side]["wall"]) for side in (OURS, PEER)]
            yield [name.removesuffix("forward").strip(), batch, *walls, _ratio(timed[OURS])]


def _switches(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["step", "form", "with, ms", "without, ms", "without / with [least, largest]"]
    for name, result in _of(cases, "switches"):
        for form, part in result.items():
            if "timing" in part:
                timed = part["timing"]
                walls = [_milliseconds(timed[side]["wall"]) for side in (OURS, "without")]
                yield [name, form, *walls, _ratio(timed[OURS])]
    for name, result in _of(cases, "determinism"):
        if "timing" in result:
            walls = [_milliseconds(result["timing"][side]["wall"]) for side in (ON, OFF)]
            yield [name, "TL_JAX_DETERMINISTIC=1", *walls, _ratio(result["timing"][ON])]


def _heads(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["what", "seconds", "beside", "seconds", "ratio"]
    for _, result in _of(cases, "heads"):
        if "heads" in result:
            seconds = result["heads"]["median_seconds"]
            all_heads, one = seconds["at once"], seconds["at once"] / result["heads"]["of_one"]
            ratio = f"{result['heads']['of_one']:.2f}"
            yield ["32 heads at once", f"{all_heads:.3f}", "one head", f"{one:.3f}", ratio]
        if "epoch" in result:
            seconds = result["epoch"]["median_seconds"]
            ratio = f"{result['epoch']['ratio']:.0f}"
            walls = f"{seconds['features']:.4f}", f"{seconds['backbone']:.3f}"
            yield ["epoch on features", walls[0], "through the backbone", walls[1], ratio]


def _images(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["what", "ms a batch", "least", "largest"]
    for _, result in _of(cases, "images"):
        for what, part in result.items():
            if isinstance(part, Mapping):
                yield [what, *(_milliseconds(part[key]) for key in ("median", "least", "largest"))]


def _alone(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["side and step", "seconds by stage", "peak GB", "temporary GB"]
    for kind in ("tl_jax alone", "torch alone", "steps"):
        for name, result in _of(cases, kind):
            part = result.get(OURS, {}) if kind == "steps" else result
            stages = part.get("compile_seconds", {})
            yield [
                f"tl_jax in turn, {name}" if kind == "steps" else f"{kind}, {name}",
                ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items()),
                "" if kind == "steps" else _gigabytes(result.get("peak_bytes")),
                _gigabytes(part.get("temporary_bytes")),
            ]


def _profiles(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["step", "module", "pass", "operation", "ms", "share"]
    for name, result in _of(cases, "profile"):
        for row in result["operations"][:LONGEST]:
            yield [
                name,
                row["module"],
                "backward" if row["is_backward"] else "forward",
                row["name"],
                f"{1e3 * row['seconds']:.3f}",
                f"{row['seconds'] / result['seconds']:.1%}",
            ]


def _depthwise(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["convolution", "what", "library", "shifted", "own", "torch"]
    for _, result in _of(cases, "depthwise"):
        for shape, kinds in result.items():
            for kind, seconds in kinds.items():
                forms = [seconds.get(form) for form in ("library", "shifted", "own", PEER)]
                cells = ["" if value is None else f"{1e3 * value:.3f}" for value in forms]
                yield [shape, kind.replace("_", " "), *cells]


def _correctness(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["case", "what", "logits", "gradients", "statistics", "worst group", "verdict"]
    for name, result in _of(cases, "correctness"):
        for what, part in result.items():
            groups = part.get("gradients_by_group", {})
            worst = max(groups, key=groups.__getitem__, default="")
            large = ", ".join(part.get("too_large", ()))
            yield [
                name,
                what,
                *(f"{part[key]:.1e}" if key in part else "" for key in _ERRORS),
                f"{worst} {groups[worst]:.1e}" if worst else "",
                f"too large: {large}" if large else "as allowed" if "too_large" in part else "",
            ]
    yield from _bits(cases)


_ERRORS = ("logits", "gradients", "statistics")


def _bits(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields whether two steps of a process, and those of two processes, have the same bits."""
    hashes = []
    for kind in ("bits", "determinism"):
        for name, result in _of(cases, kind):
            verdict = f"{result['different']} of {result['leaves']} leaves differ"
            yield [f"{kind} {name}", "two steps", "", "", "", "", verdict]
            if result["switch"]:
                hashes.append(result["sha256"])
    if len(hashes) > 1:
        verdict = "the same bits" if len(set(hashes)) == 1 else "other bits"
        yield ["deterministic", "two processes", "", "", "", "", verdict]


def _ends(cases: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["case", "status", "seconds", "error"]
    for name, case in cases.items():
        error = case.get("error", "").replace("|", "/")
        yield [name, case["status"], f"{case['seconds']:.0f}", error]
