"""A data set is one file and one line: that of docs/extending.md, added to a copy of the package.

Seen to fail with another name in the line.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from support.adding import ROOT, Copy, add, copy_package


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = copy_package(tmp_path_factory.mktemp("adding"))
    add(made, "Adding a data set", "datasets/svhn.py")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        arrays = {"X": rng.integers(0, 256, (32, 32, 3, count), np.uint8), "y": np.arange(1, count + 1)[:, None] % 10}
        arrays["y"][arrays["y"] == 0] = 10  # as the published files have it
        scipy.io.savemat(made.folder / f"{part}_32x32.mat", arrays)
    (made.folder / "w.toml").write_text(
        'data = { source = "svhn", path = "." }\nnetwork = { preset = "fully_connected" }\n'
        "readouts = { depths = [2] }\nkernel = { tile = 8 }\n"
    )
    return made


def test_an_added_data_set_is_read_and_its_keys_are_in_the_page_of_workflows(copy: Copy) -> None:
    said = copy.cntk("plan", "w.toml")
    assert "12 training and 5 test images of 32 x 32 pixels in 3 channels, 10 classes" in said
    assert "training images by class: 0: 1, 1: 2, 2: 2, 3: 1" in said
    page = copy.python(str(ROOT / "docs" / "make_workflow_page.py"))
    assert '### `[data]` with `source = "svhn"`' in page
    assert '| `part` | text | `"train"` | The training part; "extra" is' in page


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.part=first", "data.part: expected one of train, extra, got 'first'"),
        ("data.layout=sequences", "unknown key data.layout: it belongs to source = 'npz' or 'npy' or 'table'"),
        ("data.part=extra", "extra_32x32.mat"),
    ],
)
def test_what_an_added_data_set_does_not_have_is_refused(copy: Copy, setting: str, said: str) -> None:
    code = 1 if setting == "data.part=extra" else 2  # of a file that is missing in a folder that is there
    assert said in copy.cntk("plan", "w.toml", "--set", setting, code=code)
    assert not Path(copy.folder / "runs").exists()
