"""The empty database that new homes begin with, made once for each installation: `python -m tasks.new_database`."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path


def template() -> Path:
    """An empty database of this Prefect, part of the installation: Prefect itself takes 10 s to make one."""
    return Path(sys.prefix) / "share" / "shoestring" / f"prefect-{version('prefect')}.db"


def make_template() -> None:
    """Has Prefect make it, unless it is there. Raises CalledProcessError where Prefect cannot."""
    if template().exists():
        return
    template().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=template().parent) as folder:
        draft = Path(folder) / "draft.db"
        settings = {
            "PREFECT_HOME": folder,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{draft}",
        }
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env=os.environ | settings, check=True, stdout=subprocess.DEVNULL)
        draft.replace(template())


def give_database() -> None:
    """A new home's database, where the installation has a template."""
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    if database.exists() or not template().exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    draft = database.with_suffix(".new")
    shutil.copyfile(template(), draft)
    draft.replace(database)


if __name__ == "__main__":
    make_template()
