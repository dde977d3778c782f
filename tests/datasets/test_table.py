"""Tables of features and of pictures, in CSV and Parquet."""

import contextlib
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.preprocessing import OneHotEncoder
from support.garbling import garble

from cntk_pipeline.datasets import load
from cntk_pipeline.datasets.table_files import read_table
from cntk_pipeline.errors import DataError, DataNotFound

ROWS = {"size": [1.5, 2, 3, 4], "colour": ["red", "blue", "red", "green"], "sold": [True, False, True, True]}
LABELS = {"kind": ["cup", "pot", "cup", "pot"]}
CSV = "size,colour,sold,kind\n1.5,red,true,cup\n2,blue,false,pot\n3,red,true,cup\n4,green,true,pot\n"


@pytest.fixture
def save(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        return str(path)

    return write


FORMS = {
    "t.csv": CSV,
    "t.tsv": CSV.replace(",", "\t"),
    "t.csv.gz": gzip.compress(CSV.encode()),
    "t.parquet": ROWS | LABELS,
}


@pytest.mark.parametrize("name", FORMS)
def test_text_is_a_feature_for_each_value_and_the_names_are_kept(save, name):
    data = load("table", save(name, FORMS[name]), options={"target": "kind"})
    encoded = OneHotEncoder(sparse_output=False).fit_transform(np.array(ROWS["colour"])[:, None])
    expected = np.column_stack([ROWS["size"], encoded, ROWS["sold"]])
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.features == ("size", "colour=blue", "colour=green", "colour=red", "sold")
    assert data.classes == ("cup", "pot")
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.notes == (f"{data.name[6:]}: column 'colour' of text is 3 features of 0 and 1: blue, green, red",)


def test_columns_may_be_the_steps_of_sequences(save):
    path = save("steps.csv", "a,b,c,kind\n1,2,3,cup\n4,5,6,pot\n")
    data = load("table", path, options={"target": "kind", "layout": "sequences"})
    assert data.train.images.tolist() == [[[[1], [2], [3]]], [[[4], [5], [6]]]]
    assert data.features == ("a", "b", "c")


def test_features_may_be_named_and_targets_may_be_numbers(save):
    data = load("table", save("t.csv", CSV), options={"target": "size", "features": ["sold", "kind"]})
    assert data.features == ("sold", "kind=cup", "kind=pot")
    assert (data.task, data.train.labels[:, 0].tolist()) == ("regression", [1.5, 2, 3, 4])
    assert data.classes == ("size",)


def test_several_target_columns_are_named(save):
    data = load("table", save("t.csv", "a,b,c\n1,0.5,2\n2,1.5,3\n"), options={"target": ["b", "c"]})
    assert (data.task, data.classes) == ("regression", ("b", "c"))
    np.testing.assert_array_equal(data.train.labels, [[0.5, 2], [1.5, 3]])


@pytest.mark.parametrize("name", ["target", "label", "class", "y"])
def test_a_label_column_of_a_usual_name_is_found(save, name):
    assert load("table", save("t.csv", f"a,{name}\n1,x\n2,z\n")).classes == ("x", "z")


def test_a_label_column_must_be_known(save):
    with pytest.raises(DataError, match=r"expected to know the label column; set data.target to one of size, colour"):
        load("table", save("t.csv", CSV))


def test_a_test_table_may_lack_the_labels_and_shares_the_encoding(save):
    save("test.csv", "size,colour,sold\n9,black,false\n")
    path = save("t.csv", CSV)
    data = load("table", path, options={"target": "kind", "test_path": path.replace("t.csv", "test.csv")})
    assert data.features == ("size", "colour=black", "colour=blue", "colour=green", "colour=red", "sold")
    np.testing.assert_array_equal(data.test.images, [[9, 1, 0, 0, 0, 0]])
    assert data.test.labels is None


def test_a_folder_has_parts_by_the_names_of_its_files(save, tmp_path):
    for name, rows in (("train-1.parquet", [1, 2]), ("train-0.parquet", [3]), ("validation.parquet", [4])):
        save(f"data/{name}", {"x": [float(row) for row in rows], "label": [str(row % 2) for row in rows]})
    data = load("table", str(tmp_path / "data"))
    assert data.train.images.ravel().tolist() == [3, 1, 2]
    assert data.test.images.ravel().tolist() == [4]
    assert data.train.labels.tolist() == [1, 1, 0]


def test_a_folder_without_a_training_table_is_refused(save, tmp_path):
    save("data/some.csv", CSV)
    with pytest.raises(
        DataError, match=r"expected tables named train.csv or .*, got some.csv; set data.path to a table"
    ):
        load("table", str(tmp_path / "data"))


REFUSED = {
    "missing number": ("a,y\n1,0\n,1\n", {}, "column 'a': expected a value in each row, got none in row 1 .and 0 more"),
    "missing text": ("a,b,y\n1,p,0\n2,,1\n", {}, "column 'b': expected a value in each row, got none in row 1"),
    "missing label": ("a,y\n1,p\n2,\n", {}, "got none in row 1 .*; fill the column in, or drop the rows. In a table"),
    "nan": ("a,y\n1,0\nnan,1\n2,1\n", {}, "column 'a': expected a value in each row, got none in row 1"),
    "date": ("a,y\n2020-01-01,0\n2021-02-03,1\n", {}, "column 'a': expected numbers or text in all parts, got date32"),
    "date as label": ("a,y\n1,2020-01-01\n1,2021-01-01\n", {}, "column 'y': expected numbers or text as labels"),
    "text among labels": (CSV, {"target": ["kind", "size"]}, "column 'kind': expected numbers as labels, got string"),
    "no such column": (CSV, {"target": "kidn"}, "expected a column 'kidn', got size, colour, sold, kind; correct"),
    "no such feature": (CSV, {"target": "kind", "features": ["sizes"]}, "expected a column 'sizes'"),
    "label alone": ("y\n1\n", {}, "expected columns beside y, got none; add features"),
    "no rows": ("a,y\n", {}, "expected at least one row, got none"),
    "nothing": ("", {}, "expected a table .*, got ArrowInvalid"),
    "one name twice": ("a,a,y\n1,2,3\n", {}, "columns of different names, got 'a' twice; rename one"),
    "a label called NA": ("a,y\n1,NA\n2,DE\n", {}, "got none in row 0 .*NA, N/A, NaN and null are none"),
    "semicolons": ("a;b;y\n1,5;2;x\n", {}, "expected columns separated by commas, got ';' in .* 'a;b;y'"),
    "tabs": ("a\ty\n1\t2\n", {}, "expected columns separated by commas, got tabs in .*; save the table with commas"),
    "another encoding": (CSV.encode("utf-16"), {}, "expected text in UTF-8, got UTF-16; save the table in UTF-8"),
    "text of latin-1": ("a,b,y\n1,caf\xe9,0\n2,th\xe9,1\n".encode("latin-1"), {}, "column 'b': expected text in UTF-8"),
    "label of latin-1": ("a,y\n1,caf\xe9\n2,b\n".encode("latin-1"), {}, "column 'y': expected text in UTF-8"),
    "names of latin-1": ("caf\xe9,y\n1,2\n".encode("latin-1"), {}, "expected names of columns in UTF-8, got b'caf"),
    "no line of names": ("5.1,3.5,0\n4.9,3,1\n", {"target": "0"}, r"first line, got numbers \(5.1, 3.5, 0, ...\)"),
    "names of equal numbers": ("5,0,0,0\n4,0,0,1\n", {"target": "5"}, r"first line, got numbers \(5, 0, 0, 0, ...\)"),
    "one name with another separator": ("a|b\n1\n", {"target": "a"}, "where this is .* one column, put it in quotes"),
    "ragged": ("a,y\n1,2\n1,2,3\n", {}, "expected a table .*, got ArrowInvalid"),
    "a text in each row": (
        "a,y\n" + "".join(f"n{k},0\n" for k in range(9)),
        {},
        "column 'a': expected a few different texts, got 9, too many for a feature each",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_does_not_fit_is_refused_by_row_and_column(save, kind):
    content, options, message = REFUSED[kind]
    path = save("t.csv", content)
    with pytest.raises(DataError, match=rf"t\.csv.*{message}"):
        load("table", path, options=options)


def test_columns_may_be_called_by_ascending_numbers(save):
    """As pandas writes a table whose columns have no names."""
    data = load("table", save("t.csv", "0,1,2\n4.5,3,0\n5.5,4,1\n"), options={"target": "2"})
    assert data.features == ("0", "1")
    assert data.train.images.tolist() == [[4.5, 3], [5.5, 4]]


def test_a_name_of_digits_and_underscores_is_a_name(save):
    assert load("table", save("t.csv", "0_0,0_1,y\n1,2,0\n3,4,1\n")).features == ("0_0", "0_1")
    data = load("table", save("t.csv", "0_1,0_0,1_0\n1,2,0\n3,4,1\n"), options={"target": "1_0"})
    assert data.features == ("0_1", "0_0")


def test_a_separator_within_quotes_is_part_of_the_name(save):
    path = Path(save("t.tsv", '"Temperature, C"\n1\n2\n'))
    assert read_table(path).column_names == ["Temperature, C"]


def test_text_in_another_encoding_is_found_in_every_table(save, tmp_path):
    save("train-1.csv", "a,y\nx,0\nz,1\n")
    save("train-2.csv", "a,y\ncaf\xe9,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train-2\.csv: expected text in UTF-8, .*; save the table in UTF-8"):
        load("table", str(tmp_path))


def test_a_missing_value_of_parquet_is_no_text(save):
    path = save("t.parquet", {"a": [1.0, None], "y": [0, 1]})
    with pytest.raises(DataError, match=r"fill the column in, drop the rows, or name the features without it$"):
        load("table", path)


@pytest.mark.parametrize("part", ["feature", "label"])
def test_text_in_the_first_table_is_text_in_the_others(save, part):
    """Types are found file by file: this test table holds numbers alone."""
    lines = {"feature": ("a,y\nx,0\n1,1\n", "a,y\n1,0\n"), "label": ("a,y\n0,x\n1,1\n", "a,y\n1,1\n")}[part]
    test = save("test.csv", lines[1])
    data = load("table", save("train.csv", lines[0]), options={"test_path": test})
    if part == "feature":
        assert (data.features, data.test.images.tolist()) == (("a=1", "a=x"), [[1, 0]])
    else:
        assert (data.classes, data.test.labels.tolist()) == (("1", "x"), [0])


def test_numbers_are_no_text_because_another_table_has_text(save):
    test = save("test.csv", "a,y\n?,0\n")
    with pytest.raises(DataError, match="column 'a': expected numbers or text in all parts, got int64 and string"):
        load("table", save("train.csv", "a,y\n1,0\n2,1\n"), options={"test_path": test})


@pytest.mark.parametrize("name", ["T.CSV", "T.CSV.GZ", "T.PARQUET"])
def test_endings_may_be_in_capitals(save, name):
    content = {"T.CSV": CSV, "T.CSV.GZ": gzip.compress(CSV.encode()), "T.PARQUET": ROWS | LABELS}[name]
    assert load("table", save(name, content), options={"target": "kind"}).classes == ("cup", "pot")


def test_a_nan_in_parquet_is_a_missing_value(save):
    with pytest.raises(DataError, match="column 'a': expected a value in each row, got none in row 1"):
        load("table", save("t.parquet", {"a": [1.0, np.nan], "y": [0, 1]}))


def test_numbers_of_all_types_are_features(save):
    columns = {
        "whole": pa.array([1, 2], pa.uint8()),
        "real": pa.array([0.5, 1.5], pa.float32()),
        "exact": pa.array([1, 2], pa.decimal128(5, 2)),
        "coded": pa.array(["p", "q"]).dictionary_encode(),
        "y": pa.array([0, 1]),
    }
    data = load("table", save("t.parquet", columns))
    np.testing.assert_array_equal(data.train.images, [[1, 0.5, 1, 1, 0], [2, 1.5, 2, 0, 1]])


def test_another_ending_is_refused(save):
    with pytest.raises(
        DataError, match=r"t\.xlsx: expected a table, named like one of .csv, .tsv, .*; rename or convert"
    ):
        load("table", save("t.xlsx", "a,y\n1,2\n"))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"'table': expected a table, or a folder of tables at .*none.csv"):
        load("table", str(tmp_path / "none.csv"))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_table_that_no_memory_holds_is_refused_before_it_is_read(save, name, monkeypatch):
    rows = "1,0\n" * 1000
    path = save(name, gzip.compress(f"a,y\n{rows}".encode()) if name.endswith("gz") else f"a,y\n{rows}")
    monkeypatch.setattr("cntk_pipeline.datasets.reading.memory_bytes", lambda: 30_000)
    with pytest.raises(DataError, match=r"t\.csv.*: its arrays take 0\.0 GiB, and this process may use 0\.0 GiB"):
        load("table", path)


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, form)
    return buffer.getvalue()


PIXELS = np.random.default_rng(4).integers(0, 256, (3, 5, 7, 3))
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("kind", [pa.binary(), STRUCT])
def test_a_column_of_pictures_of_any_size_gives_images(save, kind):
    cells = [encoded(pixels) for pixels in PIXELS]
    cells = [{"bytes": cell, "path": None} for cell in cells] if kind == STRUCT else cells
    table = pa.table({"img": pa.array(cells, kind), "id": [7, 8, 9], "label": ["b", "a", "b"]})
    data = load("table", save("t.parquet", table))
    np.testing.assert_array_equal(data.train.images, PIXELS)
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [1, 0, 1]


def test_names_of_classes_in_the_metadata_of_the_hub_are_kept(save):
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"img": pa.array([encoded(pixels) for pixels in PIXELS]), "label": [1, 0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    data = load("table", save("t.parquet", table))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]


def test_broken_pictures_are_skipped_with_their_labels(save):
    cells = [encoded(PIXELS[0]), b"broken", None, encoded(PIXELS[2][:4])]
    path = save("t.parquet", pa.table({"img": pa.array(cells, pa.binary()), "label": [0, 1, 1, 2]}))
    with pytest.raises(DataError, match=r"t\.parquet: train row 1, column 'img': expected an image that Pillow"):
        load("table", path)
    data = load("table", path, options={"on_error": "skip", "resize": [5, 7]})
    assert [data.classes[label] for label in data.train.labels] == ["0", "2"]
    assert "skipped 2 of 4 images that cannot be decoded" in data.notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_a_garbled_table_raises_nothing_but_data_errors(save, name):
    path = save(name, FORMS[name])
    with open(path, "rb") as file:
        content = file.read()
    random = np.random.default_rng(6)
    for _ in range(100):
        with open(path, "wb") as file:
            file.write(garble(content, random))
        with contextlib.suppress(DataError):
            load("table", path, options={"target": "kind"})
