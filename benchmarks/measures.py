"""Size of the source at two revisions.

python -m benchmarks.measures BEFORE [AFTER]
"""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONG = 50  # lines of a function


def files_at(revision: str) -> dict[str, str]:
    """The source files of a revision by path."""
    listed = _git("ls-tree", "-r", "--name-only", revision, "src").splitlines()
    return {path: _git("show", f"{revision}:{path}") for path in listed if path.endswith(".py")}


def measures(files: dict[str, str]) -> dict[str, str]:
    """Measures of the files by name."""
    lengths = {path: len(text.splitlines()) for path, text in files.items()}
    nodes = [node for text in files.values() for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    documented = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]
    prose = sum(len(text.splitlines()) for node in documented if (text := ast.get_docstring(node)))
    longest = max(lengths, key=lengths.__getitem__)
    return {
        "files": str(len(files)),
        "lines": f"{sum(lengths.values()):,}",
        "median file, lines": f"{statistics.median(lengths.values()):g}",
        "longest file, lines": f"{lengths[longest]} ({longest.removeprefix('src/foreseer/')})",
        f"functions over {LONG} lines": str(sum(node.end_lineno - node.lineno >= LONG for node in functions)),
        "docstrings, share of lines": f"{prose / sum(lengths.values()):.0%}",
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> None:
    before, after = (*sys.argv[1:], "HEAD")[:2]
    old, new = (measures(files_at(revision)) for revision in (before, after))
    print(f"| | {before} | {after} |\n| --- | --- | --- |")
    for name in old:
        print(f"| {name} | {old[name]} | {new[name]} |")


if __name__ == "__main__":
    main()
