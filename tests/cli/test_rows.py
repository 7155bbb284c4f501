"""Tables from files: columns that are no measurements, and files that cannot be read."""

import numpy as np
import pytest

from cfexplain.cli.rows import read_rows

pandas = pytest.importorskip("pandas")
FRAME = pandas.DataFrame({"a": [0.5, 1.5, -2.5, 3.0], "b": [4, 1, 2, 3], "kind": ["x", "y", "x", "y"]})


def test_names_of_rows_are_no_measurement(tmp_path):
    for index in (None, ["r1", "r2", "r3", "r4"], [7, 3, 9, 1]):
        frame = FRAME if index is None else FRAME.set_axis(index)
        frame.to_csv(tmp_path / "t.csv")
        rows = read_rows(tmp_path / "t.csv", label="kind")
        assert list(rows.X.columns) == ["a", "b"] and rows.y.tolist() == ["x", "y", "x", "y"]
        assert rows.names == [str(name) for name in frame.index] and "'Unnamed: 0'" in rows.notes[0]
    # an explainer that was trained on it is still given it
    FRAME.drop(columns="kind").to_csv(tmp_path / "t.csv")
    assert list(read_rows(tmp_path / "t.csv", columns=["Unnamed: 0", "a", "b"]).X.columns) == ["Unnamed: 0", "a", "b"]


def test_a_column_that_counts_the_rows_is_named(tmp_path):
    FRAME.assign(id=range(1, 5)).to_csv(tmp_path / "t.csv", index=False)
    rows = read_rows(tmp_path / "t.csv", label="kind")
    assert "'id' counts the rows" in rows.notes[0] and list(rows.X.columns) == ["a", "b", "id"]
    assert list(read_rows(tmp_path / "t.csv", label="kind", ignore=["id"]).X.columns) == ["a", "b"]


def test_columns_of_the_explainer_are_taken_by_name(tmp_path):
    FRAME[["kind", "b", "a"]].to_csv(tmp_path / "T.CSV", index=False)
    rows = read_rows(tmp_path / "T.CSV", columns=["a", "b"])
    assert list(rows.X.columns) == ["a", "b"] and "kind" in rows.notes[0]
    with pytest.raises(ValueError, match=r"lacks the columns \['c'\]"):
        read_rows(tmp_path / "T.CSV", columns=["a", "c"])


@pytest.mark.parametrize(("text", "message"), [
    (b"a,b\n1,red\n2,blue\n", "column 'b' of .*holds 'red'"), (b"a,b\n1,\n2,3\n", "'b' of .* has 1 empty"),
    (b"a,b\n1,inf\n2,3\n", "'b' of .* 1 infinite"), (b"a,a\n1,2\n", "two columns called 'a'"), (b"a;b\n1;2\n", "commas"),
    (b"gr\xf6\xdfe,b\n1,2\n", "UTF-8"), (b"", "cannot be read as .csv"), (b"a,b\n", "no rows"),
    (b"a,b\n1,2,3\n", "no rows"), (b"a,b\n1,2\n3,4,5,6\n", "cannot be read as .csv"),
    (b"a,,b\n1,2,3\n", "has no name"), (b",a\n1.5,2\n2.5,3\n", "no name"),
    (b"\x00\x01\x02" * 50, "csv")])
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, message):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(ValueError, match=message) as stopped:
        read_rows(tmp_path / "t.csv")
    assert "t.csv" in str(stopped.value)


def test_labels_are_whole(tmp_path):
    FRAME.assign(kind=["x", None, "y", "x"]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="'kind' of .* has 1 empty"):
        read_rows(tmp_path / "t.csv", label="kind")
    for options, what in (({"label": "sort"}, "for the labels"), ({"ignore": ["sort"]}, "to ignore")):
        with pytest.raises(ValueError, match=f"no column 'sort' {what}"):
            read_rows(tmp_path / "t.csv", **options)


def test_archives_of_any_kind_raise_a_value_error(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "a.npz"
    np.savez_compressed(file, X=np.arange(12.0).reshape(4, 3), y=np.arange(4))
    whole = file.read_bytes()
    for i in range(150):
        data = bytearray(whole[: rng.integers(0, len(whole) + 1)] if i % 2 else whole)
        for place in rng.integers(0, max(1, len(data)), 3):
            data[place : place + 1] = bytes([rng.integers(256)])
        file.write_bytes(bytes(data))
        try:
            read_rows(file)
        except ValueError as error:
            assert "a.npz" in str(error)
    for arrays, message in (({"X": np.float64(3)}, "shape"), ({"X": np.array(["a"])}, "expected numbers"),
                            ({"X": np.zeros((3, 2)), "y": np.zeros((3, 1))}, "one label a row")):
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=message):
            read_rows(file)
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as .npz"):
        read_rows(file)
