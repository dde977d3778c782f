import os

import numpy as np
import pytest
from PIL import Image

from cntk_pipeline.datasets import load
from cntk_pipeline.errors import DataError, DataNotFound


def paint(path, value, size=(4, 3), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def two_classes(tmp_path):
    for name, value in (("cat/b.png", 2), ("cat/a.png", 1), ("cat/c.PNG", 3), ("ant/z.png", 9)):
        paint(tmp_path / "train" / name, value)
    return tmp_path


def test_classes_take_turns_in_the_order_of_names(two_classes):
    data = load("folder", str(two_classes))
    assert data.classes == ("ant", "cat")
    assert data.train.images[:, 0, 0, 0].tolist() == [9, 1, 2, 3]
    assert data.train.labels.tolist() == [0, 1, 1, 1]
    assert data.test is None


def test_images_are_rows_columns_channels(two_classes):
    assert load("folder", str(two_classes)).train.images.shape == (4, 3, 4, 1)


def test_the_test_part_has_the_labels_of_the_training_part(two_classes):
    paint(two_classes / "test/cat/a.png", 7)
    assert load("folder", str(two_classes)).test.labels.tolist() == [1]


def test_without_train_the_subfolders_are_the_classes(two_classes):
    data = load("folder", str(two_classes / "train"))
    assert data.classes == ("ant", "cat")
    assert data.test is None


def test_colour_has_three_channels(tmp_path):
    paint(tmp_path / "a/1.jpg", (250, 0, 0), mode="RGB")
    paint(tmp_path / "a/2.png", (250, 0, 0, 9), mode="RGBA")
    assert load("folder", str(tmp_path)).train.images.shape == (2, 3, 4, 3)


def test_hidden_and_other_files_are_passed_over(two_classes):
    (two_classes / "train/.cache").mkdir()
    (two_classes / "train/cat/notes.txt").write_text("x")
    (two_classes / "train/cat/._a.png").write_text("x")
    assert len(load("folder", str(two_classes)).train) == 4


def test_two_files_of_unequal_size_are_named(two_classes):
    paint(two_classes / "train/cat/b.png", 1, size=(5, 3))
    with pytest.raises(
        DataError,
        match=r"b\.png: expected 3 x 4 pixels \(height x width\) in grayscale as .*z\.png has, got 3 x 5 .*; resize",
    ):
        load("folder", str(two_classes))


def test_grayscale_among_colour_is_refused(two_classes):
    paint(two_classes / "train/cat/b.png", (1, 2, 3), mode="RGB")
    with pytest.raises(DataError, match=r"in grayscale as .*z\.png has, got 3 x 4 pixels \(height x width\) in colour"):
        load("folder", str(two_classes))


def test_test_images_of_another_size_are_refused(two_classes):
    paint(two_classes / "test/cat/a.png", 1, size=(5, 3))
    with pytest.raises(DataError, match=r"training images' size \(3, 4, 1\), got \(3, 5, 1\)"):
        load("folder", str(two_classes))


def test_an_unreadable_picture_is_named(two_classes):
    (two_classes / "train/cat/b.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cat/b\.png: expected an image that Pillow can decode"):
        load("folder", str(two_classes))


def test_val_is_the_test_part_where_there_is_no_test_and_this_is_said(two_classes):
    paint(two_classes / "val/cat/a.png", 7)
    data = load("folder", str(two_classes))
    assert data.test.labels.tolist() == [1]
    assert data.notes == (f"{two_classes}: there is no test/, val/ is the test part",)


def test_folders_that_are_not_read_are_named(two_classes):
    paint(two_classes / "test/cat/a.png", 7)
    paint(two_classes / "val/cat/a.png", 8)
    paint(two_classes / "extra/cat/a.png", 9)
    data = load("folder", str(two_classes))
    assert data.test.images.max() == 7
    assert data.notes == (f"{two_classes}: beside train/ these folders are not read: extra, val",)


def test_test_without_train_is_refused(two_classes):
    (two_classes / "train").rename(two_classes / "training")
    paint(two_classes / "test/cat/a.png", 7)
    with pytest.raises(DataError, match="got test, training, which are names of parts; rename training/ to train/"):
        load("folder", str(two_classes))


def test_images_below_a_class_belong_to_it_and_this_is_said(two_classes):
    paint(two_classes / "train/cat/indoors/red/d.png", 5)
    paint(two_classes / "train/cat/indoors/e.png", 6)
    paint(two_classes / "train/cat/.thumbnails/a.png", 1, size=(1, 1))
    data = load("folder", str(two_classes))
    assert data.train.images[:, 0, 0, 0].tolist() == [9, 1, 2, 3, 6, 5]
    assert data.train.labels.tolist() == [0, 1, 1, 1, 1, 1]
    (note,) = data.notes
    assert note.endswith("are of the class around them: 1 in cat/indoors, 1 in cat/indoors/red")


def test_links_in_a_circle_are_followed_once(two_classes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    paint(elsewhere / "more.png", 4)
    (two_classes / "train/cat/linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(two_classes / "train/cat")
    assert sorted(load("folder", str(two_classes)).train.images[:, 0, 0, 0].tolist()) == [1, 2, 3, 4, 9]


def test_what_is_no_picture_of_a_class_is_counted(two_classes):
    for name in ("cat/a.heic", "cat/b.HEIC", "cat/README", "loose.png"):
        (two_classes / "train" / name).write_text("x")
    os.mkfifo(two_classes / "train/cat/pipe.png")  # to open it would wait for ever
    data = load("folder", str(two_classes))
    assert len(data.train) == 4
    (note,) = data.notes
    assert note.endswith("or in no class, are not read: 1 without an ending, 2 .heic, 2 .png")


def test_of_many_subfolders_a_few_are_named(two_classes):
    for number in range(9):
        paint(two_classes / f"train/cat/{number}/a.png", 1)
    assert load("folder", str(two_classes)).notes[0].endswith("1 in cat/4, and 4 more")


def test_an_ordinary_folder_has_no_notes(two_classes):
    paint(two_classes / "test/cat/a.png", 7)
    assert load("folder", str(two_classes)).notes == ()


def test_a_class_without_a_picture_is_named(two_classes):
    (two_classes / "train/bee").mkdir()
    with pytest.raises(DataError, match=r"bee: expected at least one image \(\.bmp .*\), got none; add"):
        load("folder", str(two_classes))


def test_a_test_class_unknown_in_training_is_named(two_classes):
    paint(two_classes / "test/dog/a.png", 1)
    with pytest.raises(DataError, match=r"test: expected the classes of .*\(ant, cat\), got dog; rename"):
        load("folder", str(two_classes))


def test_a_folder_without_classes_is_refused(tmp_path):
    paint(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="expected one folder for each class, got none; arrange"):
        load("folder", str(tmp_path))


def test_a_file_is_not_a_folder_of_classes(tmp_path):
    paint(tmp_path / "a.png", 1)
    with pytest.raises(DataError, match="expected one folder for each class, got none"):
        load("folder", str(tmp_path / "a.png"))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"'folder': expected a folder of images, .* got nothing there"):
        load("folder", str(tmp_path / "none"))


def test_the_first_rows_hold_every_class(tmp_path):
    for name in "abc":
        for number in range(5):
            paint(tmp_path / name / f"{number}.png", number)
    labels = load("folder", str(tmp_path)).train.labels
    assert np.bincount(labels[:6]).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("training", "testing", "rename"),
    [
        ("Training", "Testing", "rename Training/ to train/ and Testing/ to test/"),
        ("Train", "Test", "rename Train/ to train/ and Test/ to test/"),
        ("training_set", "test_set", "rename training_set/ to train/ and test_set/ to test/"),
        ("validation", "test", "rename the folder of the training images to train/"),
    ],
)
def test_parts_of_other_names_are_not_taken_for_classes(tmp_path, training, testing, rename):
    """The run would learn to tell the parts apart, and report that accuracy."""
    for part in (training, testing):
        for kind in ("cat", "dog"):
            paint(tmp_path / part / kind / "a.png", 3)
    with pytest.raises(DataError, match=f"which are names of parts; {rename}$"):
        load("folder", str(tmp_path))
    paint(tmp_path / "single_prediction" / "a.png", 3)
    if training != "validation":
        with pytest.raises(DataError, match=f"which are names of parts; {rename}$"):
            load("folder", str(tmp_path))


def test_one_of_several_classes_may_have_the_name_of_a_part(tmp_path):
    for name in ("bus", "Train", "valid"):
        paint(tmp_path / name / "a.png", 3)
    assert load("folder", str(tmp_path)).classes == ("Train", "bus", "valid")
    (tmp_path / "valid").rename(tmp_path / "van")
    assert load("folder", str(tmp_path)).classes == ("Train", "bus", "van")


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (
            ("Training/cat", "test/cat", "eval/cat"),
            "got Training, eval, test, which are names of parts; rename Training/ to train/",
        ),
        (
            ("cats", "dogs", "test/cats", "test/dogs"),
            "got test, which is the name of a part; move the folders of the classes into train/",
        ),
        (
            ("Training/cat", "Validation/cat", "single_prediction"),
            "got Training, Validation, which are names of parts; rename Training/ to train/ and Validation/ to test/",
        ),
    ],
)
def test_the_remedy_fits_the_folders_that_are_there(tmp_path, places, told):
    for place in places:
        paint(tmp_path / place / "a.png", 3)
        (tmp_path / place).with_name("about.txt").write_text("of no class")
    with pytest.raises(DataError, match=f"{told}$"):
        load("folder", str(tmp_path))


def test_the_folder_around_the_data_set_is_no_class(tmp_path):
    for name in ("pets/train/cat/a.png", "pets/train/dog/a.png", "pets/test/cat/a.png"):
        paint(tmp_path / name, 3)
    with pytest.raises(DataError, match=r"the one folder pets, which holds folders alone; set data.path to .*/pets$"):
        load("folder", str(tmp_path))


def test_a_class_whose_name_is_no_text_is_refused(two_classes):
    """run.json would be written, and be damaged for every reader."""
    os.rename(two_classes / "train/cat", os.fsencode(two_classes / "train") + b"/caf\xe9")
    with pytest.raises(DataError, match=r"names of classes and features in UTF-8, got 'caf.udce9'; rename the folder"):
        load("folder", str(two_classes))
