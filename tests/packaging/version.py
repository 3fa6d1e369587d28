"""Fails unless a tag names the package's version: ``python -m tests.packaging.version v0.1.0``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def versions() -> dict[str, str]:
    """The package's version by each file that states it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    source = (ROOT / "src" / "foreseer" / "__init__.py").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    return {
        "pyproject.toml": project["version"],
        "src/foreseer/__init__.py": re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1],
        "CITATION.cff": re.search(r"^version: (.+)$", citation, re.MULTILINE)[1],
    }


def main(tag: str) -> int:
    """The exit status."""
    differing = {file: version for file, version in versions().items() if f"v{version}" != tag}
    for file, version in differing.items():
        print(f"The tag is {tag}, but {file} says {version}.", file=sys.stderr)
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
