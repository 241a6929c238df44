"""What pip on a machine without a network installs from: nodemesh as it is here, and what it depends on."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.processes import REPOSITORY

_PYTHON = Path("/usr/bin/python3")
_LOCK = REPOSITORY / "requirements.lock"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+==[^\\]+?) *\\$", re.MULTILINE)
_SOURCES = ("node_proxy", "registry", "pyproject.toml", "README.md", "LICENSE")


class Packages:
    """Wheels for the operating system's own python, which is not the one that runs the tests.

    Those of the dependencies, as the lock has them, are kept in the repository's cache.
    """

    def __init__(self, folder: Path) -> None:
        """Build in `folder`; it must not be there yet."""
        self._folder = folder
        version = subprocess.run([_PYTHON, "-VV"], capture_output=True, check=True).stdout
        key = hashlib.sha256(_LOCK.read_bytes() + version).hexdigest()[:16]
        self._cache = REPOSITORY / ".cache" / f"wheels-{key}"

    @property
    def dependencies(self) -> Path:
        """The folder of the dependencies' wheels."""
        return self._cache / "wheels"

    def build(self) -> Path:
        """Give the wheel of this very source."""
        source = self._folder / "source"
        source.mkdir(parents=True)
        for name in _SOURCES:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(
                    REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(REPOSITORY / name, source)
        if not (self._cache / "complete").exists():
            self._fetch(source)
        self._pip(
            "--no-index", f"--find-links={self.dependencies}", "--no-deps",
            f"--wheel-dir={self._folder}", str(source),
        )  # fmt: skip
        (wheel,) = self._folder.glob("nodemesh-*.whl")
        return wheel

    def _fetch(self, source: Path) -> None:
        for old in self._cache.parent.glob("wheels-*"):
            shutil.rmtree(old)
        self._cache.mkdir(parents=True)
        subprocess.run([_PYTHON, "-m", "venv", self._cache / "venv"], check=True)
        # Hashes would be demanded of nodemesh itself too; they were checked when these tests were installed.
        constraints = self._cache / "constraints.txt"
        constraints.write_text("\n".join(_PINNED.findall(_LOCK.read_text())) + "\n")
        self._pip(
            "--use-pep517", f"--constraint={constraints}", f"--wheel-dir={self.dependencies}",
            str(source), "setuptools>=77",
        )  # fmt: skip
        for own in self.dependencies.glob("nodemesh-*.whl"):
            own.unlink()
        (self._cache / "complete").touch()

    def _pip(self, *arguments: str) -> None:
        """Make wheels.

        Raises:
            subprocess.CalledProcessError: pip failed; what it said is in the test's output.
        """
        command = [str(self._cache / "venv/bin/python"), "-m", "pip", "wheel", "--quiet", *arguments]
        subprocess.run(command, check=True, timeout=240)
