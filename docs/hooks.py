"""What `make docs` adds to this folder: an API page for each room, and pictures of results."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = "experiments/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `reference/ROOM.md` for each folder of the library, and the pictures of experiments."""
    for folder in sorted((ROOT / "tl_jax").iterdir()):
        if folder.is_dir() and folder.name not in ("cli", "__pycache__"):
            path = f"reference/{folder.name}.md"
            files.append(File.generated(config, path, content=reference_page(folder)))
    for picture in (ROOT / RESULTS).rglob("*.png"):
        path = f"results/{picture.relative_to(ROOT / RESULTS)}"
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def reference_page(folder: Path) -> str:
    """Returns the page of a folder: its modules one after the other."""
    paths = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return f"# tl_jax.{folder.name}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links to results, which are outside docs/, point at their copies."""
    return markdown.replace(f"](../{RESULTS}/", "](results/")
