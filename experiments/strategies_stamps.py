"""The stamps of Tux Paint as a folder of labelled pictures, and their classes among ImageNet's.

796 PNG cut-outs in folders by subject, most with a transparent ground (GPL-2, and other free
licences: see the package's copyright file). They come with Debian's and Ubuntu's package
`tuxpaint-stamps-default`.
"""

import io
import json
import shutil
from pathlib import Path, PurePosixPath

from PIL import Image

from tl_jax.data.partition import partition
from tl_jax.data.sources import debian

INSTALLED = Path("/usr/share/tuxpaint/stamps")
SPLITS = {"train": 0.45, "validation": 0.15, "test": 0.40}
LEAST = 20
_SIDE, _SEED = 128, 0
_FACTS = "stamps.json"
_HOW = (
    "install Debian's package tuxpaint-stamps-default, or fetch it (`apt-get download "
    "tuxpaint-stamps-default`, 161 MB) and give --stamps tuxpaint-stamps-default_*.deb; a folder "
    "of subject/.../*.png does too"
)

# By name, as stamps show them; "symbols" are letters, digits and signs, of which ImageNet has none.
_SOURCES = {
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
    """Returns what `transfer.class_mapping` takes for the classes of a prepared folder."""
    known = json.loads((folder / _FACTS).read_text())["classes"]
    return tuple(f"{name}={sources}" for name, sources in _SOURCES.items() if name in known)


def prepare(source: Path, folder: Path) -> Path:
    """Writes `folder/split/class/*.png`, if it is not there, and returns the folder.

    The classes are the folders right below the stamps'; those of fewer than 20 pictures are left
    out. Pictures lie on white, made square and at most 128 pixels wide. Each class is dealt out to
    the splits by a seeded hash of the file's name. Letters of one alphabet or pieces of one chess
    set resemble each other and fall into several splits.

    Args:
      source: the package (.deb), or the folder of the stamps that it installs.
      folder: where to write; what is there already is taken if it is of the same source.

    Raises:
      FileNotFoundError: if there is no such source; the message says how to get it.
      ValueError: if it holds no two classes.
    """
    if not source.exists():
        raise FileNotFoundError(f"there are no stamps at {source}: {_HOW}")
    facts = folder / _FACTS
    if facts.exists() and json.loads(facts.read_text())["source"] == source.name:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    pictures = _pictures(source)
    classes: dict[str, list[str]] = {}
    for name in sorted(pictures):
        classes.setdefault(PurePosixPath(name).parts[0], []).append(name)
    kept = {label: names for label, names in classes.items() if len(names) >= LEAST}
    if len(kept) < 2:
        raise ValueError(
            f"{source} holds {len(pictures)} pictures in {len(classes)} folders, of which "
            f"{len(kept)} have {LEAST} or more; expected two at least: {_HOW}"
        )
    counts = {label: _write(folder, label, names, pictures) for label, names in kept.items()}
    dropped = {label: len(names) for label, names in classes.items() if label not in kept}
    found = {"source": source.name, "classes": counts, "dropped": dropped}
    facts.write_text(json.dumps(found, indent=2) + "\n")
    return folder


def describe(folder: Path) -> str:
    """Says what a prepared folder holds, and what was left out."""
    found = json.loads((folder / _FACTS).read_text())
    counts, dropped = found["classes"], found["dropped"]
    return (
        f"stamps: {sum(sum(c.values()) for c in counts.values())} pictures of {len(counts)} "
        f"classes ({', '.join(counts)}); left out, for fewer than {LEAST} pictures: "
        f"{', '.join(f'{name} ({count})' for name, count in dropped.items()) or 'none'}"
    )


def _write(
    folder: Path, label: str, names: list[str], pictures: dict[str, bytes]
) -> dict[str, int]:
    """Writes the pictures of a class; returns how many went to each split."""
    parts = partition(names, shares=list(SPLITS.values()), seed=_SEED)
    for split, dealt in zip(SPLITS, parts, strict=True):
        place = folder / split / label
        place.mkdir(parents=True)
        for name in dealt:
            with Image.open(io.BytesIO(pictures[name])) as image:
                on_white(image).save(place / name.partition("/")[2].replace("/", "-"))
    return {split: len(dealt) for split, dealt in zip(SPLITS, parts, strict=True)}


def on_white(image: Image.Image) -> Image.Image:
    """Returns a picture on a white square, at most 128 pixels wide."""
    cut_out = image.convert("RGBA")
    side = max(cut_out.size)
    ground = Image.new("RGBA", (side, side), "white")
    place = ((side - cut_out.width) // 2, (side - cut_out.height) // 2)
    ground.alpha_composite(cut_out, place)
    ground.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return ground.convert("RGB")


def _pictures(source: Path) -> dict[str, bytes]:
    """Returns the PNG files by their names below the folder of the stamps."""
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*.png") if path.parent != source)
        return {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
    found = {}
    with debian.data_archive(source) as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and member.name.endswith(".png") and "stamps" in parts[:-2]:
                name = "/".join(parts[parts.index("stamps") + 1 :])
                found[name] = archive.extractfile(member).read()
    return found
