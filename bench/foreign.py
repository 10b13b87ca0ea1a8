"""Other people's Python clients, each in an environment of its own.

They cannot live in ours: python-etcd3's generated code refuses protobuf 4 and later, and raftkv
needs a newer one. pip installs them from wherever it is set up to.
"""

import fcntl
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = {
    "etcd3": ("etcd3==0.12.0", "protobuf<4", "setuptools<81"),
    "aetcd": ("aetcd==1.0.0",),
}
INSTALL_SECONDS: Final = 300.0


class ForeignClientMissing(Exception):
    """An environment could not be made; the text says why."""


def environment(name: str, directory: Path) -> Path:
    """The interpreter of an environment below `directory` that has the client `name`.

    It is made when it is not there yet; by one process, if several ask for it at the same time.
    Errors: ForeignClientMissing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(name, directory / name)


def _made(name: str, place: Path) -> Path:
    python = place / "bin" / "python"
    ready = place / "ready"
    wanted = " ".join(REQUIREMENTS[name])
    if ready.exists() and ready.read_text() == wanted:
        return python
    shutil.rmtree(place, ignore_errors=True)
    install = [*("-m", "pip", "install", "--quiet", "--disable-pip-version-check")]
    try:
        venv.create(place, with_pip=True)
        subprocess.run(
            [python, *install, *REQUIREMENTS[name]],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        subprocess.run([python, "-c", f"import {name}"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        text = said if isinstance(said, str) else said.decode(errors="replace")
        last = text.strip().splitlines()[-1:] or ["no reason given"]
        raise ForeignClientMissing(
            f"{wanted} cannot be installed for Python {sys.version.split()[0]}: {last[0]}"
        ) from error
    ready.write_text(wanted)
    return python
