"""The committed rows of the comparisons with torch: one a line, complete, replaced one by one."""

from experiments import parity_table
from tl_jax.models import registry


def test_every_architecture_has_a_row_that_passed_or_says_why_there_is_none():
    rows = parity_table.read_rows()
    assert list(rows) == list(registry.ARCHITECTURES)
    for row in rows.values():
        assert row.get("passed") or row["not_compared"], row


def test_the_committed_tables_are_made_of_the_rows():
    folder, docs = parity_table.FOLDER, parity_table.ROOT / "docs" / "architectures.md"
    before = [path.read_text("utf-8") for path in (folder / "README.md", docs)]
    assert parity_table.table(parity_table.read_rows()) == before[0]
    assert parity_table.family_table(parity_table.read_rows()) == before[1]


def test_a_row_takes_the_place_of_an_earlier_one_and_leaves_the_others(tmp_path):
    rows = parity_table.read_rows()
    for name in ("resnet50", "vgg11", "resnet18"):
        parity_table.write_row(rows[name], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"resnet.jsonl", "vgg.jsonl"}
    assert list(parity_table.read_rows(tmp_path)) == ["resnet18", "resnet50", "vgg11"]
    changed = rows["resnet18"] | {"logits": 0.1 + 0.2}
    parity_table.write_row(changed, tmp_path)
    assert parity_table.read_rows(tmp_path) == {
        "resnet18": changed,
        "resnet50": rows["resnet50"],
        "vgg11": rows["vgg11"],
    }
    assert (tmp_path / "resnet.jsonl").read_text("utf-8").count("\n") == 2
