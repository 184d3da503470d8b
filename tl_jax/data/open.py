"""Opens a source by its specification: `elpv`, `folder:PATH` or `tfds:NAME[/CONFIG][:VERSION]`."""

from pathlib import Path

from tl_jax import trees
from tl_jax.data.folder import OnCorrupt, open_folder
from tl_jax.data.source import Source

_KINDS = ("elpv", "folder:", "tfds:")


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    on_corrupt: OnCorrupt = "raise",
) -> Source:
    """Opens a split of labelled images.

    Args:
      spec: "elpv", "folder:PATH" or "tfds:NAME[/CONFIG][:VERSION]".
      split: name of the split; "elpv" and "tfds:" also take slices such as "train[:90%]".
      data_dir: folder of prepared sets. The default is `TFDS_DATA_DIR`, and without it the
        user's cache for "elpv" and TFDS's own for "tfds:".
      seed: chooses what is held out of a folder that has no split folders.
      validation_fraction: part of each class held out of a folder that has no split folders.
      on_corrupt: what to do with images of a folder that cannot be decoded: "raise", or "skip"
        to go on without and list them in the source's `skipped`. The other kinds are decoded as
        they are prepared and take only "raise".

    Raises:
      ValueError: if the specification or the split is unknown, or the set is unfit.
      FileNotFoundError: if the folder or the prepared set is not there.
      ModuleNotFoundError: if the package of "elpv" is not installed.
      CorruptImageError: if images of a folder cannot be decoded.
    """
    kind, _, rest = spec.partition(":")
    folder = Path(data_dir).expanduser() if data_dir is not None else None
    if kind == "folder" and rest:
        return open_folder(
            Path(rest).expanduser(),
            split,
            seed=seed,
            validation_fraction=validation_fraction,
            on_corrupt=on_corrupt,
            data_dir=folder,
        )
    if on_corrupt != "raise":
        raise ValueError(
            f"got on_corrupt={on_corrupt!r} with {spec!r}; only 'folder:' takes it: prepared sets "
            "are mended by preparing them anew"
        )
    if spec == "elpv":
        # Imported here, as below: a folder of images needs no tensorflow_datasets.
        from tl_jax.data.elpv import open_elpv

        return open_elpv(split, data_dir=folder)
    if kind == "tfds" and rest:
        from tl_jax.data.tfds_source import open_tfds

        return open_tfds(rest, split, data_dir=folder)
    raise ValueError(
        f"unknown source {spec!r}; expected 'elpv', 'folder:PATH' or 'tfds:NAME[/CONFIG]"
        f"[:VERSION]'{trees.hint(kind + ':' if rest else spec, _KINDS)}"
    )
