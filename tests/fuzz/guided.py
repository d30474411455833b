"""One Python stage under atheris, in a process that libFuzzer ends.

python tests/fuzz/guided.py STAGE [OPTION OF LIBFUZZER...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["lcodec"]):  # torch's thousands of modules would take minutes
    from tests.fuzz.stages import stage


def main() -> None:
    name, *arguments = sys.argv[1:]
    with stage(name) as found, tempfile.TemporaryDirectory() as corpus:
        seeds = found.seeds()
        for i, data in enumerate(seeds):
            (Path(corpus) / str(i)).write_bytes(data)
        longest = max(map(len, seeds)) + 1000
        atheris.Setup([sys.argv[0], *arguments, f"-max_len={longest}", corpus], found.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
