"""What other libraries take as weights, and what to give here: names, addresses, kinds of files."""

import re

from tl_jax import files

# First bytes of other files, and what these files are.
OPENINGS = (
    (b"<", "an HTML page (an error page that was saved?); fetch the file itself"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file (of Keras?); give weights of torch or safetensors"),
    (b"\x93NUMPY", "a NumPy file; give weights of torch or safetensors"),
    (b"\x1f\x8b", "compressed (gzip); unpack it first"),
    (b"{", "JSON text; give the weights themselves"),
    (b"GGUF", "a GGUF file; give weights of torch or safetensors"),
)
# Other files by their suffixes, where their first bytes may be anything.
SUFFIXES = {
    ".npz": "a file of NumPy: from_state_dict(model, dict(numpy.load(FILE))) converts its arrays, "
    "if they have torch's keys",
    ".msgpack": "a file of Flax; flax.serialization.msgpack_restore reads it, and variables need "
    "no conversion",
    **dict.fromkeys(
        (".onnx", ".keras", ".h5", ".hdf5", ".pb", ".tflite", ".index", ".pdparams", ".mlmodel"),
        "a file of another framework; give weights of torch or safetensors",
    ),
}

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SOURCES = {
    **dict.fromkeys(
        ("true", "pretrained", "default", "imagenet", "imagenet1k"),
        "leave weights out, or 'auto', for those published under the name",
    ),
    **dict.fromkeys(
        ("imagenet1k_v1", "imagenet1k_v2"),
        "torchvision's weights have timm's names with tags, such as 'resnet50.tv_in1k' and "
        "'resnet50.tv2_in1k' (list_models(pretrained=True))",
    ),
    **dict.fromkeys(
        ("none", "false", "random", "scratch"),
        "create_model makes a network without weights; to train one, give --model.weights random",
    ),
}


def source(text: str) -> str | None:
    """Returns what to give in place of a source that is one elsewhere; None if it is not known.

    >>> source("me/pets")
    "a repository of the hub is 'hub:me/pets'"
    """
    if text.startswith("file:"):
        return "give the path without 'file://'"
    if files.is_address(
        text
    ):  # Only repositories of the hub, and published weights, are downloaded.
        return "it is an address: download it, and give the file (of the hub: 'hub:OWNER/REPO')"
    if _REPOSITORY.fullmatch(text):
        return f"a repository of the hub is 'hub:{text}'"
    return _SOURCES.get(text.lower())
