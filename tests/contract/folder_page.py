"""Write the table of ``docs/models/folders.md`` from the table by which the tests call whole folders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from tests.packaging.version import ROOT
from tests.support.folder_table import (
    FAMILIES,
    NEWEST_FAMILIES,
    PICTURED,
    PROCESSED_FAMILIES,
    PROCESSED_OTHERS,
    UNBINNED,
    UNBINNED_ONES,
    VIDEOS,
    Family,
)
from tests.support.folders import PARTS, kind_of

FOLDER = ROOT / "docs" / "models"
PAGE = FOLDER / "folders.md"
BEGIN, END = "<!-- folders -->", "<!-- /folders -->"
NO_RECIPES = ("folders.md", "index.md", "every-pipeline.md")  # tables of all pipelines
FILES = {"picture": "a.png", "other": "b.png", "video": "v.gif"}


def recipe_of(kind: str) -> str | None:
    """The page with a recipe or notes of a class; other pages come before ``newest``."""
    pages = sorted(FOLDER.glob("*.md"), key=lambda page: (page.name == "newest.md", page.name))
    return next(
        (page.name for page in pages if page.name not in NO_RECIPES and re.search(rf"\b{kind}\b", page.read_text())),
        None,
    )


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The class, the commands that were tried, the options of its calls, and what it needs besides."""
    for name, family in {**FAMILIES, **PROCESSED_FAMILIES, **NEWEST_FAMILIES}.items():
        yield kind_of(name), "all" if family.compared else "generate", _shown(family), family.needs
    for name, options in PICTURED.items():
        yield kind_of(name), "all" if name == "flux_img2img" else "generate", _shown(Family(options)), ""
    for name in sorted({*PARTS} - {*FAMILIES, *PICTURED}):
        frames = (f"num_frames={VIDEOS[name]}",) if name in VIDEOS else ()
        given = (*((UNBINNED,) if name in UNBINNED_ONES else ()), *frames)
        yield kind_of(name), "generate", _shown(Family(tuple(w for each in given for w in ("--option", each)))), ""
    for name, (options, pictures, _, _) in PROCESSED_OTHERS.items():
        shown = (*options, *("--image", "{picture}", "--image", "{other}")[: 2 * pictures])
        yield kind_of(name), "generate", _shown(Family(shown)), "torchvision"


def table() -> str:
    """The table."""
    head = ["| pipeline | recipe | commands | options as tried | needs |", "|---|---|---|---|---|"]
    lines = {}
    for kind, commands, options, needs in rows():
        page = recipe_of(kind)
        recipe = f"[{page.removesuffix('.md')}]({page})" if page else ""
        line = f"| `{kind}` | {recipe} | {commands} | {options} | {needs} |"
        if commands == "all" or kind not in lines:
            lines[kind] = line
    return "\n".join([*head, *(lines[kind] for kind in sorted(lines, key=str.lower))])


def _shown(family: Family) -> str:
    words = shlex.join(word.format(**FILES) for word in family.options)
    return f"`{words}`" if words else ""


def rewritten(page: str) -> str:
    """The page with the table as it is to be."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
