"""The wheel and the sdist build, and the wheel works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERSION = "0.1.0"


def run(*command: object, cwd: Path) -> str:
    """Run a command and return what it prints; fail with all of it."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, cwd=ROOT)
    return directory


def test_sdist_holds_what_a_distributor_needs(dist: Path) -> None:
    """Sources, tests, documentation and the licence are in it, and nothing that is ignored."""
    with tarfile.open(dist / f"channels_mpx-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"LICENSE", "README.md", "pyproject.toml", "tox.ini", "channels_mpx/py.typed"}
    assert names >= {"tests/conftest.py", "docs/conf.py", "example_project/manage.py"}
    assert not [name for name in names if name.startswith((".tox", ".tools"))]


def test_wheel_holds_the_package_alone(dist: Path) -> None:
    """Nothing but package and metadata is installed; py.typed and the pytest plugin are there."""
    with zipfile.ZipFile(dist / f"channels_mpx-{VERSION}-py3-none-any.whl") as archive:
        names = archive.namelist()
        entry_points = archive.read(f"channels_mpx-{VERSION}.dist-info/entry_points.txt").decode()
    plugin = ["[pytest11]", "channels_mpx", "=", "channels_mpx.testing.plugin"]
    assert entry_points.split() == plugin
    assert "channels_mpx/testing/plugin.py" in names
    assert {name.partition("/")[0] for name in names} == {
        "channels_mpx",
        f"channels_mpx-{VERSION}.dist-info",
    }
    assert "channels_mpx/py.typed" in names


@pytest.mark.timeout(600)  # dependencies may have to be downloaded
def test_install_the_wheel_outside_the_checkout(dist: Path, tmp_path: Path) -> None:
    """A fresh environment gets the wheel and what it declares, and the package imports."""
    run(sys.executable, "-m", "virtualenv", "-q", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", *dist.glob("*.whl"), cwd=tmp_path)
    program = "import channels_mpx as p; print(p.__version__, p.__file__)"
    version, file = run(python, "-c", program, cwd=tmp_path).split()
    assert version == VERSION
    assert Path(file).is_relative_to(tmp_path)
    program = "import sys, channels_mpx.testing; print('pytest' in sys.modules)"
    assert run(python, "-c", program, cwd=tmp_path).split() == ["False"]
    run(python, "-m", "pip", "check", cwd=tmp_path)
