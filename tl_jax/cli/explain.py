"""The command that explains: what it takes, what it prints, and the picture that it writes."""

from collections.abc import Mapping
from pathlib import Path

from tyro.conf import Positional

from tl_jax.evaluation import prediction_inputs
from tl_jax.explanations import check as checking
from tl_jax.explanations import overlay
from tl_jax.explanations.check import Check
from tl_jax.explanations.explain import Explainer, Explanation

_METHODS = ("grad_cam", "integrated_gradients", "occlusion")


def explain(
    run_or_model: Positional[str],
    images: Positional[tuple[Path, ...]],
    *,
    object: tuple[Path, ...] = (),
    source: str | None = None,
    split: str | None = None,
    image_column: tuple[str, ...] = (),
    group: str | None = None,
    to: Path = Path("explanation.png"),
    methods: tuple[str, ...] = _METHODS,
    task: str | None = None,
    target: str | None = None,
    stage: str | None = None,
    check: bool = False,
    weights: str | None = None,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    value_range: tuple[float, float] | None = None,
    calibrated: bool = False,
) -> None:
    """Draws where in images is what speaks for a class, by a run or a pretrained network.

    Args:
      run_or_model: Folder of a run; or a network: timm's name, "hf-hub:OWNER/REPO", or a folder
        with config.json and weights.
      images: Image files, and folders, of which all images below them are taken. For a run that
        learned from several images of an object each folder with images is an object.
      object: Images of one object, for such a run.
      source: Data in place of images, such as "manifest:new.csv".
      split: Split of the source; the default is all of it.
      image_column: Column of a manifest that holds the images; several are views of an object.
      group: Column of a manifest that joins the rows of one object.
      to: PNG file to write, with a row for each image: the image, then the map of each method; of
        more than 20 rows the others are in NAME-2.png and so on.
      methods: Methods, of "grad_cam", "grad_cam_plus_plus", "hires_cam", "saliency",
        "smooth_grad", "integrated_gradients", "occlusion" and "attention".
      task: What the network tells, by its name; the default is the main task.
      target: Class, label or level that is explained; the default is the predicted one.
      stage: Module whose maps class activation maps weigh, such as "layer3"; the default is the
        last stage.
      check: Measure besides how far the maps are true of the network: the areas of insertion (high
        is good) and deletion (low is good), and the rank correlation of the maps with those of the
        network with a random head, and with random weights (near 1 is bad).
      weights: Where a network's weights come from; see predict.
      checkpoint_key: Entry of a training checkpoint that holds the weights.
      prefix: Prefix of the keys that are taken from the weights, such as "backbone.".
      ignore: Shell patterns of keys of the weights that are left out.
      value_range: Values of black and white in images of more than 8 bits, such as 0 4095.
      calibrated: Divide the logits of a run that tells the class of one image by the temperature
        that it chose after training.
    """
    if (bool(images) + bool(object) + (source is not None)) != 1:
        raise ValueError(
            "explain needs at least one image file or folder; or the images of one object "
            "(--object), or a table (--source), in their place"
        )
    if to.suffix.lower() != ".png":
        raise ValueError(f"got the file {to} to write a picture to; expected a name in .png")
    if images:
        prediction_inputs.check_named(prediction_inputs.of_images(images), all_needed=True)
    explainer = Explainer(
        run_or_model, weights=weights, value_range=value_range, calibrated=calibrated,
        checkpoint_key=checkpoint_key, prefix=prefix, ignore=ignore,
    )  # fmt: skip
    given = [list(object)] if object else list(images) or None
    found = explainer(
        given,
        method=methods, task=task, target=target, stage=stage, source=source, split=split,
        image_column=image_column or None, group=group,
    )  # fmt: skip
    for explanation in found:
        print(_line(explanation))
    for path in overlay.draw(found, to):
        print(f"wrote {path}")
    if check:
        checks = checking.check(
            explainer, given, method=methods, task=task, target=target, stage=stage, source=source,
            split=split, image_column=image_column or None, group=group,
        )  # fmt: skip
        print("\n".join(_table(checks)))


def _table(checks: Mapping[str, Check]) -> list[str]:
    """Returns the lines of a table of checks."""
    names = ("insertion", "deletion", "head random", "all random")
    lines = [f"{'':20}" + "".join(f"{name:>13}" for name in names)]
    for method, of_method in checks.items():
        first, *_, last = of_method.correlations.values()
        numbers = (of_method.insertion, of_method.deletion, first, last)
        lines.append(f"{method:20}" + "".join(f"{number:13.3f}" for number in numbers))
    return lines


def _line(explanation: Explanation) -> str:
    """Returns what is explained of an image, and what the network predicts where that differs."""
    name = " ".join(path or "-" for path in explanation.paths)
    other = explanation.predicted
    predicted = f" (predicted: {other})" if other != explanation.target else ""
    return f"{name}: {explanation.text}{predicted}"
