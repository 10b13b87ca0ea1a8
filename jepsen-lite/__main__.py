"""`python jepsen-lite ...`: the same as `python -m jepsen_lite ...`, from a checkout."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
for _path in (_HERE.parent, _HERE):  # the packages raftkv and jepsen_lite of this checkout
    sys.path.insert(0, str(_path))

from jepsen_lite.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
