"""The stamps of Tux Paint as a folder of labelled pictures, and related classes of ImageNet.

There are 796 PNG cut-outs in folders by subject, most with a transparent background. Their licences
are GPL-2 and other free ones: see the copyright file of Debian's and Ubuntu's package
`tuxpaint-stamps-default`, which holds them.
"""

import io
import json
import shutil
from pathlib import Path, PurePosixPath

from PIL import Image

from tl_jax.data import splits
from tl_jax.data.sources import debian

INSTALLED = Path("/usr/share/tuxpaint/stamps")
SPLITS = {"train": 0.45, "validation": 0.15, "test": 0.40}
MIN_COUNT = 20
_SIDE, _SEED = 128, 0
_SUMMARY = "stamps.json"
_HOW_TO_GET_THEM = (
    "install Debian's package tuxpaint-stamps-default, or download it (`apt-get download "
    "tuxpaint-stamps-default`, 161 MB) and give --stamps tuxpaint-stamps-default_*.deb; a folder "
    "of subject/.../*.png works too"
)

# ImageNet's names of what the stamps show. "symbols" (letters, digits, signs) have no such class.
IMAGENET_SOURCES = {
    "animals": "tabby|golden retriever|hen|goldfinch|bee|ladybug|monarch|goldfish|great white shark"
    "|brown bear|lion|tiger|zebra|African elephant|hippopotamus|ox|ram|hog|hare|red fox|gorilla"
    "|king penguin|flamingo|American alligator|box turtle|tree frog|snail",
    "food": "Granny Smith|orange|lemon|banana|pineapple|strawberry|fig|pomegranate|broccoli"
    "|cauliflower|cucumber|bell pepper|zucchini|artichoke|pizza|ice cream|cheeseburger|corn",
    "household": "hammer|screwdriver|teapot|cup|coffee mug|broom|table lamp|can opener|ladle"
    "|spatula|frying pan|wooden spoon|ashcan|rubber eraser|plunger",
    "plants": "daisy|rapeseed|yellow lady's slipper|pot|acorn|buckeye",
    "seasonal": "jack-o'-lantern|candle|Christmas stocking",
    "town": "street sign|traffic light|church|barn|castle|mailbox|palace|beacon|flagpole",
    "vehicles": "sports car|racer|fire engine|garbage truck|steam locomotive|airliner|tractor"
    "|school bus|ambulance|motor scooter|mountain bike|trailer truck|speedboat|container ship",
}


def class_mapping(folder: Path) -> tuple[str, ...]:
    """Returns the `transfer.class_mapping` for the classes of a folder of stamps."""
    known = json.loads((folder / _SUMMARY).read_text())["classes"]
    return tuple(f"{name}={sources}" for name, sources in IMAGENET_SOURCES.items() if name in known)


def write_pictures(source: Path, folder: Path) -> Path:
    """Writes `folder/split/class/*.png`, unless they exist, and returns the folder.

    The classes are the folders right below that of the stamps; those of fewer than 20 pictures are
    left out. Pictures are laid over white, padded to squares and shrunk to 128 pixels. Each class
    is divided into the splits by a seeded hash of the files' names. The letters of one alphabet or
    the pieces of one chess set resemble each other and are in several splits.

    Args:
      source: the package (.deb), or the folder of the stamps that it installs.
      folder: where to write; it is kept as it is if it was written from the same source.

    Raises:
      FileNotFoundError: if there is no such source; the message says how to get it.
      ValueError: if it has fewer than two classes.
    """
    if not source.exists():
        raise FileNotFoundError(f"there are no stamps at {source}: {_HOW_TO_GET_THEM}")
    summary = folder / _SUMMARY
    if summary.exists() and json.loads(summary.read_text())["source"] == source.name:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    pictures = read_files(source, (".png",))
    names_by_class: dict[str, list[str]] = {}
    for name in sorted(pictures):
        names_by_class.setdefault(PurePosixPath(name).parts[0], []).append(name)
    classes = {label: names for label, names in names_by_class.items() if len(names) >= MIN_COUNT}
    if len(classes) < 2:
        raise ValueError(
            f"{source} has {len(pictures)} pictures in {len(names_by_class)} folders, of which "
            f"{len(classes)} have {MIN_COUNT} or more; expected at least two: {_HOW_TO_GET_THEM}"
        )
    counts: dict[str, dict[str, int]] = {}
    for label, names in classes.items():
        parts = splits.partition(names, shares=list(SPLITS.values()), seed=_SEED)
        counts[label] = {split: len(part) for split, part in zip(SPLITS, parts, strict=True)}
        for split, part in zip(SPLITS, parts, strict=True):
            (folder / split / label).mkdir(parents=True)
            for name in part:
                file = folder / split / label / name.partition("/")[2].replace("/", "-")
                with Image.open(io.BytesIO(pictures[name])) as image:
                    on_white(image).save(file)
    dropped = {label: len(names) for label, names in names_by_class.items() if label not in classes}
    content = {"source": source.name, "classes": counts, "dropped": dropped}
    summary.write_text(json.dumps(content, indent=2) + "\n")
    return folder


def describe(folder: Path) -> str:
    """Returns a line on the classes of a folder of stamps, and those that were left out."""
    summary = json.loads((folder / _SUMMARY).read_text())
    counts, dropped = summary["classes"], summary["dropped"]
    return (
        f"stamps: {sum(sum(c.values()) for c in counts.values())} pictures of {len(counts)} "
        f"classes ({', '.join(counts)}); left out, for fewer than {MIN_COUNT} pictures: "
        f"{', '.join(f'{name} ({count})' for name, count in dropped.items()) or 'none'}"
    )


def on_white(image: Image.Image) -> Image.Image:
    """Returns a picture on a white square, at most 128 pixels wide."""
    cut_out = image.convert("RGBA")
    side = max(cut_out.size)
    square = Image.new("RGBA", (side, side), "white")
    corner = ((side - cut_out.width) // 2, (side - cut_out.height) // 2)
    square.alpha_composite(cut_out, corner)
    square.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return square.convert("RGB")


def read_files(source: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the files with some suffixes by their names below the folder of the stamps.

    Args:
      source: as in `write_pictures`.
      suffixes: such as ".png"; ".txt" are sentences on the stamps, in English in the first line.

    Raises:
      FileNotFoundError: if there is no such source; the message says how to get it.
    """
    if not source.exists():
        raise FileNotFoundError(f"there are no stamps at {source}: {_HOW_TO_GET_THEM}")
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix in suffixes)
        return {
            path.relative_to(source).as_posix(): path.read_bytes()
            for path in paths
            if path.parent != source
        }
    packed = debian.read_files(
        source,
        lambda name: name.endswith(suffixes) and "stamps" in PurePosixPath(name).parts[:-2],
    )
    return {name.partition("/stamps/")[2]: content for name, content in packed.items()}
