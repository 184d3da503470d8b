"""Finds what oneDNN's convolutions are built from, builds them, and keeps them in the cache."""

import dataclasses
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax

from tl_jax import files, processor

INSTALL = "pip install 'tl-jax[onednn]'"
_SOURCE = Path(__file__).with_name("convolution.cc")
_PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fopenmp", "-w")
_LINES_SHOWN = 3
_LONGEST_BUILD = 300  # Seconds; it takes a few.


class UnavailableError(ValueError):
    """oneDNN's convolutions cannot be used here; the message says why, and what helps."""


@dataclasses.dataclass(frozen=True)
class Ingredients:
    """What the library is built from.

    Attributes:
      version: of oneDNN.
      library: oneDNN's shared library.
      headers: the folders of the headers of oneDNN and of XLA.
    """

    version: str
    library: Path
    headers: tuple[Path, Path]

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change whenever another library would be built."""
        sources = [_SOURCE, *sorted(_SOURCE.parent.glob("*.h"))]
        parts = [path.read_text(encoding="utf-8") for path in sources]
        parts += [*_OPTIONS, self.version, str(self.library)]
        parts += [metadata.version("jaxlib"), processor.description()]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def find() -> Ingredients:
    """Returns what the library is built from.

    Raises:
      UnavailableError: if it is not installed, or not made for this machine.
    """
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise UnavailableError(f"oneDNN's package is for Linux on x86_64, and this is {machine}")
    library, header = (
        _file_of(package, name)
        for package, name in zip(_PACKAGES, ("libdnnl.so.3", "oneapi/dnnl/dnnl.hpp"), strict=True)
    )
    headers = (header.parents[2], Path(jax.ffi.include_dir()))
    return Ingredients(metadata.version(_PACKAGES[0]), library, headers)


def build(ingredients: Ingredients) -> Path:
    """Returns the built library, from the cache if it was built before.

    Several processes may build it at once: each writes a file of its own, and one stays.

    Raises:
      UnavailableError: if there is no compiler, or it fails.
    """
    built = files.cache_dir() / "onednn" / f"{ingredients.key}.so"
    if built.exists():
        return built
    compiler = _compiler()
    print("note: oneDNN's convolutions are being built; this is done once", file=sys.stderr)
    with files.replacing(built) as part:
        command = [compiler, *_OPTIONS]
        command += [f"-I{folder}" for folder in ingredients.headers]
        command += [str(_SOURCE), "-o", str(part), str(ingredients.library)]
        command += [f"-Wl,-rpath,{ingredients.library.parent}"]
        _run(command)
    return built


def _file_of(package: str, name: str) -> Path:
    """Returns where an installed package has put the file whose path ends in `name`."""
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UnavailableError(f"oneDNN is not installed ({INSTALL} installs it)") from None
    for file in distribution.files or ():
        if file.as_posix().endswith(f"/{name}"):
            path = Path(str(distribution.locate_file(file))).resolve()
            if path.exists():
                return path
    raise UnavailableError(
        f"the package {package} is installed without {name}; install it anew: "
        f"pip install --force-reinstall {package}"
    )


def _compiler() -> str:
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted)
    if compiler is None:
        raise UnavailableError(
            f"oneDNN's convolutions must be compiled once, and there is no {wanted}; install a C++ "
            "compiler (Debian, Ubuntu: apt install g++), or name one in the variable CXX"
        )
    return compiler


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_BUILD)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"the compiler {command[0]} did not run: {error}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        said = "\n".join((errors or done.stderr.splitlines())[:_LINES_SHOWN])
        raise UnavailableError(
            f"oneDNN's convolutions do not compile with {command[0]}; it says:\n{said}\n"
            "A newer compiler may help (C++17 with OpenMP is needed); CXX names another"
        )
