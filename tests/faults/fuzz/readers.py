"""What the fuzzer calls: bytes as records and as a journal; nothing but an error of this package may come out.

``python tests/faults/fuzz/readers.py FOLDER [options of libFuzzer]`` needs atheris, as `make chaos` installs it where
there is one for this Python. FOLDER is filled with seeds; what crashes lies in the current directory then, and belongs
into `CRASHED` of `tests/faults/test_fuzz.py`.
"""

import json
import sys
import tempfile
from pathlib import Path

import google_crc32c

from cntk_pipeline.rundir.journal import from_line, to_line

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.record_kinds import kinds

from cntk_pipeline.errors import StoreError
from cntk_pipeline.rundir import journal
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.storage import LocalPath
from cntk_pipeline.storage.records import Record
from cntk_pipeline.tasks import Chunk, Receipt, Stage, Task

KINDS = kinds()

RECEIPT = Receipt(Task(Stage("train"), 1, 0), (Chunk("train", 1028, 77, "ab"),), 0.1, 2.0, 0.3, "host")


def seeds() -> list[bytes]:
    """Return a valid example of each kind, for `read` to read."""
    records = [json.dumps(valid).encode() for _, valid in KINDS.values()]
    line = to_line(RECEIPT)
    examples = [*records, line.partition(b"\t")[0], line * 3 + line[:20]]
    return [bytes([kind]) + example for kind, example in enumerate(examples)]


def read(data: bytes) -> None:
    """Read bytes as the kind of record that the first of them names."""
    kind, content = data[0] % (len(KINDS) + 2) if data else 0, data[1:]
    try:
        if kind < len(KINDS):
            reader, _ = list(KINDS.values())[kind]
            reader.parse(content, "x")
        elif kind == len(KINDS):
            from_line(content + b"\t%08x\n" % google_crc32c.value(content))
        else:
            _read_journal(content)
    except StoreError as error:
        str(error)


def _read_journal(content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        (Path(folder) / "000001.jsonl").write_bytes(content)
        receipts = list(Journal(LocalPath(folder)).receipts())
        assert len(receipts) <= content.count(b"\n")


def main() -> None:
    """Fuzz."""
    import atheris

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed{number}").write_bytes(seed)
    # All that it imports, numba among it, would take minutes to instrument.
    for function in (read, _read_journal, Record.parse, Record._error, from_line, Journal.receipts):
        atheris.instrument_func(function)
    atheris.instrument_func(journal._read_on)
    atheris.instrument_func(journal._whole_lines)
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
