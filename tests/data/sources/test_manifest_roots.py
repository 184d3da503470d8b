"""A manifest's images lie below one folder; a row that leads elsewhere is named and not read."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.source import Inputs
from tl_jax.data.sources import manifest_roots, manifest_unlabelled
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.options import InputColumns


@pytest.fixture
def home(tmp_path, save_image, monkeypatch):
    """A home folder with eight images in `set/photos` and two in `secret`."""
    for number in range(8):
        save_image(tmp_path / "home" / "set" / "photos" / f"{number}.png", seed=number)
    for number in range(2):
        save_image(tmp_path / "home" / "secret" / f"{number}.png", seed=10 + number)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def open_rows(tmp_path, home):
    """Opens a table with these paths, in a folder below `home/set` or in it."""

    def open_(paths, folder="", suffix=".csv", read=open_source, **options):
        table = home / "set" / folder / f"t{suffix}"
        table.parent.mkdir(exist_ok=True)
        rows = [{"image": str(p), "label": "ab"[i % 2]} for i, p in enumerate(paths)]
        if suffix == ".parquet":
            rows = [{**row, "image": {"bytes": None, "path": row["image"]}} for row in rows]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        else:
            lines = [",".join(row.values()) for row in rows]
            table.write_text("\n".join(["image,label", *lines]))
        return read(f"manifest:{table}", "all", data_dir=tmp_path / "d", **options)

    return open_


INSIDE = [f"photos/{number}.png" for number in range(8)]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("form", ["../secret/0.png", "photos/../../secret/0.png", "ABSOLUTE", "~"])
def test_a_row_that_leads_out_of_the_set_is_refused(open_rows, home, form, suffix, tmp_path):
    secret = home / "secret" / "0.png"
    cell = {"ABSOLUTE": str(secret), "~": "~/secret/0.png"}.get(form, form)
    place = "line 10" if suffix == ".csv" else "row 9"
    place += f": {cell}" + ("\n" if form == "ABSOLUTE" else f", which is {secret}\n")
    for options in ({}, {"on_corrupt": "skip"}):
        with pytest.raises(ValueError, match="1 images of .* are far from its folder") as caught:
            open_rows([*INSIDE, cell], suffix=suffix, **options)
        assert place in str(caught.value)
        assert "TL_JAX_IMAGE_ROOTS" in str(caught.value)
    table = home / "set" / f"t{suffix}"
    with pytest.raises(ValueError, match="are far from its folder"):
        prepare_source(f"manifest:{table}", tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="are far from its folder"):
        manifest_unlabelled.open_unlabelled(
            table, tasks=[], meaning=Inputs(), columns=InputColumns()
        )


def test_a_file_of_the_system_is_not_read(open_rows):
    cell = "../" * 40 + "etc/passwd"
    with pytest.raises(ValueError, match=r"line 10: .*, which is /etc/passwd") as caught:
        open_rows([*INSIDE, cell])
    assert "x:0:0" not in str(caught.value)


@pytest.mark.parametrize("makes", [str, lambda path: f"../photos/{path.name}"])
def test_a_table_beside_its_images_is_read(open_rows, home, makes):
    paths = sorted((home / "set" / "photos").iterdir())
    assert len(open_rows([makes(path) for path in paths], folder="labels")) == 8


def test_a_table_far_from_its_images_is_read(open_rows, home, monkeypatch):
    paths = [home / "set" / each for each in INSIDE]
    assert len(open_rows(paths, folder="../tables")) == 8


def test_images_in_the_folder_and_near_it_are_read(open_rows, home, monkeypatch):
    paths = [home / "set" / each for each in INSIDE[:4]]
    (home / "set" / "old").mkdir()
    for each in INSIDE[4:]:
        paths.append((home / "set" / each).rename(home / "set" / "old" / Path(each).name))
    (home / "set" / "photos" / "t.csv").write_text(
        "\n".join(["image,label", *(f"{path},{'ab'[i % 2]}" for i, path in enumerate(paths))])
    )
    table = f"manifest:{home / 'set' / 'photos' / 't.csv'}"
    assert len(open_source(table, "all", data_dir=home / "d")) == 8


def test_a_folder_that_is_reached_by_a_link_is_the_same(open_rows, home, tmp_path):
    open_rows([home / "set" / INSIDE[0], *INSIDE[1:]])
    (tmp_path / "link").symlink_to(home / "set")
    table = f"manifest:{tmp_path / 'link' / 't.csv'}"
    assert len(open_source(table, "all", data_dir=tmp_path / "d")) == 8


def test_links_in_the_folder_are_followed(open_rows, home):
    (home / "set" / "photos" / "0.png").unlink()
    (home / "set" / "photos" / "0.png").symlink_to(home / "secret" / "0.png")
    (home / "set" / "more").symlink_to(home / "secret")
    assert len(open_rows([*INSIDE, "more/1.png"])) == 9


@pytest.mark.parametrize("other", ["/etc/hostname", "HOME"])
def test_images_elsewhere_must_share_a_folder(open_rows, home, other):
    paths = [home / "set" / each for each in INSIDE]
    other = str(home / "secret" / "0.png") if other == "HOME" else other
    with pytest.raises(ValueError, match=rf"1 images .* others:\n  line 10: {other}\nthe") as e:
        open_rows([*paths, other], folder="labels")
    assert "photos" not in str(e.value)


def test_images_in_the_home_folder_itself_are_named(open_rows, home, save_image):
    paths = [save_image(home / f"{number}.png", seed=number) for number in range(4)]
    with pytest.raises(ValueError, match=r"4 images .* are far from the others"):
        open_rows(paths, folder="labels")


def test_the_variable_allows_further_folders(open_rows, home, monkeypatch):
    paths = [*INSIDE, home / "secret" / "0.png"]
    for roots, message in (
        (home / "nothing", "expected folders, and there is no folder .*nothing"),
        (home / "set" / "photos", "are far from its folder"),
    ):
        monkeypatch.setenv(manifest_roots.VARIABLE, str(roots))
        with pytest.raises(ValueError, match=message):
            open_rows(paths)
    monkeypatch.setenv(manifest_roots.VARIABLE, f"/usr/../usr:{home / 'secret'}:")
    assert len(open_rows(paths)) == 9
    (home / "sec").mkdir()  # The beginning of another folder's name.
    monkeypatch.setenv(manifest_roots.VARIABLE, str(home / "sec"))
    with pytest.raises(ValueError, match="are far from its folder"):
        open_rows(paths)


def test_without_a_home_folder_the_root_is_refused_alone(open_rows, home, monkeypatch):
    monkeypatch.setattr(manifest_roots, "_homes", list)
    assert len(open_rows([*INSIDE, home / "secret" / "0.png"])) == 9
    with pytest.raises(ValueError, match="are far from its folder"):
        open_rows([*INSIDE, "/etc/hostname"])
