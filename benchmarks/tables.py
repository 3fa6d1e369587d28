"""One function per quoted table, from the results; used by ``benchmarks/figures.py``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.rendering import MISSING, TABLES, Row, Table, decimals, named, table

LABELS = {
    "Euler": "Euler, that many steps",
    "DPM-Solver++ 2M": "DPM-Solver++ 2M, that many steps",
    "UniPC": "UniPC, that many steps",
    "reuse": "reuse (FORA)",
    "taylorseer": "TaylorSeer",
    "newton": "Newton",
    "adams-bashforth": "Adams-Bashforth",
    "spectrum": "Spectrum",
    "generic": "generic (the default)",
}
FIXED = tuple(LABELS)
LEARNED = (
    "TaylorSeer, searched steps",
    "L2P, searched steps",
    "kernel rows, searched steps",
    "rollout, searched steps",
)
REFINED = "refined, searched steps"
FEW_PROMPTS = ("kernel rows, 4 prompts", "rollout, 4 prompts")
PUBLISHED = ("L2P as published", "kernel rows, L2P's steps")


def psnr_table(rows: Sequence[Row], budgets: Sequence[int], methods: Sequence[str]) -> list[list[str]]:
    """Mean PSNR by method and number of computed steps."""
    header = ["method", *(f"{budget} NFE" for budget in budgets)]
    lines = [
        [LABELS.get(method, method), *(decimals(named(rows, method).get(f"{budget} NFE, dB")) for budget in budgets)]
        for method in methods
    ]
    return [header, *lines]


SOLVERS = {"euler-gits": "Euler on levels learned by GITS", "bns": "BNS"}


@table("fidelity-short", "learning", "learned_solvers")
def _fidelity_short(rows: list[Row], solvers: list[Row]) -> list[list[str]]:
    """Both results are of the same captions, learned from and drawn."""
    budgets = (14, 11, 9, 7, 5)
    learned = ("kernel rows, searched steps", "rollout, searched steps", REFINED, "L2P as published")
    lines = psnr_table(rows, budgets, ("Euler", "UniPC", "reuse", "taylorseer", "spectrum", "generic", *learned))
    for name, label in SOLVERS.items():
        by_budget = {row["NFE"]: row["PSNR, dB"] for row in solvers if row["method"] == name}
        lines.append([label, *(decimals(by_budget.get(budget)) for budget in budgets)])
    return lines


@table("fidelity", "learning")
def _fidelity(rows: list[Row]) -> list[list[str]]:
    return psnr_table(rows, (14, 11, 9, 7, 6, 5), (*FIXED, *LEARNED, REFINED, *FEW_PROMPTS, *PUBLISHED))


@table("fidelity-guidance", "learning_cfg3")
def _fidelity_guidance(rows: list[Row]) -> list[list[str]]:
    return psnr_table(rows, (14, 9, 6), (*FIXED, *PUBLISHED, *LEARNED, *FEW_PROMPTS))


@table("fidelity-no-guidance", "learning_cfg1")
def _fidelity_no_guidance(rows: list[Row]) -> list[list[str]]:
    return _fidelity_guidance(rows)


@table("fidelity-both", "learning", "video")
def _fidelity_both(picture: list[Row], video: list[Row]) -> list[list[str]]:
    header = ["method", "picture, 14 NFE", "9", "7", "video, 14 NFE", "9", "7"]
    labels = {
        **LABELS,
        "reuse": "reuse",
        "kernel rows, searched steps": "kernel rows",
        "rollout, searched steps": "rollout",
    }
    methods = ("Euler", "UniPC", "reuse", "spectrum", "taylorseer", "L2P as published", *LEARNED[2:])
    lines = []
    for method in methods:
        pictures = [decimals(named(picture, method).get(f"{budget} NFE, dB")) for budget in (14, 9, 7)]
        videos = [decimals(named(video, method).get(f"{budget} NFE, PSNR")) for budget in (14, 9, 7)]
        lines.append([labels.get(method, method), *pictures, *videos])
    return [header, *lines]


VIDEO_LABELS = {**LABELS, "reuse": "reuse", "FORA": "FORA (reuse at modules)"}
VIDEO_METHODS = (
    *(
        "Euler",
        "DPM-Solver++ 2M",
        "UniPC",
        "reuse",
        "FORA",
        "TeaCache",
        "Delta-DiT",
        "taylorseer",
        "TaylorSeer at modules",
    ),
    *("newton", "adams-bashforth", "spectrum", "generic", "L2P as published", *LEARNED[1:]),
)


def _video(rows: list[Row]) -> list[list[str]]:
    measures = (("PSNR", 1), ("SSIM", 4), ("temporal error", 3))
    header = ["method"]
    for budget in (14, 9, 7):
        header += [f"{budget} NFE: dB", "SSIM", "temporal"]
    lines = []
    for method in VIDEO_METHODS:
        row = named(rows, method)
        cells = [decimals(row.get(f"{nfe} NFE, {name}"), places) for nfe in (14, 9, 7) for name, places in measures]
        lines.append([VIDEO_LABELS.get(method, method), *cells])
    return [header, *lines]


TABLES["video"] = Table(("video",), _video)
TABLES["video-guidance"] = Table(("video_cfg2",), _video)


@table("few-steps", "few_steps")
def _few_steps(rows: list[Row]) -> list[list[str]]:
    columns = ((8, 7), (8, 6), (8, 5), (8, 4), (6, 5), (6, 4), (6, 3), (4, 3))
    methods = {
        "step reduction to": "step reduction: Euler with that many steps",
        "best sub-grid (reuse": "reuse, searched steps",
        "TaylorSeer order 1": "TaylorSeer order 1, searched steps",
        "fs.learned": "kernel rows, searched steps (`fs.learned`)",
        "rollout": "rollout, searched steps",
    }
    lines = []
    for beginning, label in methods.items():
        cells = [
            decimals(row["PSNR, dB"])
            for steps, nfe in columns
            for row in rows
            if (row["steps"], row["NFE"]) == (steps, nfe) and row["method"].startswith(beginning)
        ]
        lines.append([label, *cells])
    return [["", *(f"{nfe} of {steps}" for steps, nfe in columns)], *lines]


GUIDANCE_LABELS = {
    "kernel rows, both branches": ("kernel", "together"),
    "kernel rows, planned together": ("kernel", "planned together (`forward_passes=`)"),
    "kernel rows, uncond at every second step": ("kernel", "unconditional at every second step"),
    "rollout, both branches": ("rollout", "together"),
    "rollout, planned together": ("rollout", "planned together (`forward_passes=`)"),
    "rollout, uncond at every second step": ("rollout", "unconditional at every second step"),
}


@table("guidance", "guidance")
def _guidance(rows: list[Row]) -> list[list[str]]:
    budgets = (28, 18, 14, 12)
    header = ["rows", "steps of the branches", "28 passes", *map(str, budgets[1:])]
    cells = {(row["method"], row["forward_passes"]): f"{row['PSNR, dB']:.1f} ({row['latent']:.4f})" for row in rows}
    return [
        header,
        *([*labels, *(cells[name, budget] for budget in budgets)] for name, labels in GUIDANCE_LABELS.items()),
    ]


def _every_method(rows: list[Row]) -> list[list[str]]:
    names = {"plan:rollout": "rollout", "kernel:learned": "kernel rows, searched steps"}
    header = ["method"]
    for budget in (14, 9, 7):
        header += [f"{budget} asked: spent", "FLOPs, x fewer", "dB", "SSIM"]
    cells: dict[str, dict[int, list[str]]] = {}
    order: dict[str, float] = {}
    for row in rows:
        method = "plan:rollout" if row["method"].startswith("plan:rollout") else row["method"]
        if not row["failed"]:
            spent, fewer = f"{row['forward_passes']:g}", f"{row['FLOPs, x fewer']:g}"
            numbers = [spent, fewer, decimals(row["psnr"]), decimals(row["ssim"], 4)]
            cells.setdefault(method, {})[row["asked"]] = numbers
        if row["asked"] == 9 and not row["failed"]:
            order[method] = row["psnr"]
    missing = [MISSING] * 4
    lines = [
        [names.get(method, method), *(cell for budget in (14, 9, 7) for cell in cells[method].get(budget, missing))]
        for method in sorted(order, key=lambda name: -order[name])
    ]
    return [header, *lines]


TABLES["every-method"] = Table(("every_method_emoji",), _every_method)
TABLES["every-method-video"] = Table(("every_method_emoji_video",), _every_method)


@table("claims", "claims")
def _claims(rows: list[Row]) -> list[list[str]]:
    return [
        ["claim", "found", "against"],
        *([row["claim"], decimals(row["found"], 2), decimals(row["against"], 2)] for row in rows),
    ]


@table("parts-spectrum", "parts", "parts_video")
def _parts_spectrum(pictures: list[Row], videos: list[Row]) -> list[list[str]]:
    header = ["forecast at Spectrum's steps", "pictures: 14 NFE", "9", "7", "video: 14 NFE", "9", "7"]
    methods = dict.fromkeys(row["method"] for row in pictures if row["steps"] == "Spectrum's")
    by_cell = [{(row["method"], row["asked"]): decimals(row["dB"]) for row in rows} for rows in (pictures, videos)]
    return [header, *([method, *(cells[method, nfe] for cells in by_cell for nfe in (14, 9, 7))] for method in methods)]


@table("parts-teacache", "parts", "parts_video")
def _parts_teacache(pictures: list[Row], videos: list[Row]) -> list[list[str]]:
    header = ["reused (mean NFE)", "at steps", "pictures: 14 asked", "9", "7", "video: 14 asked", "9", "7"]
    gated = [row for row in pictures if row["steps"] != "Spectrum's"]
    lines = []
    for method, steps in dict.fromkeys((row["method"], row["steps"]) for row in gated):
        line = [method.removeprefix("reuse of "), steps]
        for rows in (pictures, videos):
            found = {row["asked"]: row for row in rows if (row["method"], row["steps"]) == (method, steps)}
            line += [f"{found[nfe]['dB']:.1f} ({found[nfe]['forward_passes']:.1f})" for nfe in (14, 9, 7)]
        lines.append(line)
    return [header, *lines]


@table("gated", "gated")
def _gated(rows: list[Row]) -> list[list[str]]:
    header = ["policy", "NFE, mean and spread", "least, most", "latent error", "dB", "fixed, dB"]
    header += ["gain, hardest by fixed", "by Euler", "by gate", "each its own"]
    names = {
        "gate": "gate, {} asked",
        "gate, trust 1": "trust 1, {} asked",
        "gate, trust 0.5": "trust 0.5, {} asked",
        "gate, trust 0": "the gate's search alone, {}",
        "gate, max_error": "gate, `max_error={}`",
    }

    def gain(row: Row, by: str) -> str:
        return f"{row[f'hardest by {by}']:+.1f} +- {row[f'+- {by}']:.1f}"

    lines = [
        [
            names[row["policy"]].format(row["asked"]),
            f"{row['NFE']:.2f} +- {row['spread']:.2f}" if row["spread"] else f"{row['NFE']:g}",
            *(f"{row['least']}, {row['most']}", decimals(row["latent error"], 4)),
            *(decimals(row["dB"]), decimals(row["fixed, dB"])),
            *(gain(row, "fixed"), gain(row, "Euler"), gain(row, "gate"), f"{row['each its own hardest']:+.1f}"),
        ]
        for row in rows
    ]
    return [header, *lines]


@table("qualities", "qualities")
def _qualities(rows: list[Row]) -> list[list[str]]:
    header = ["`quality`", "error allowed", "measured, median", "NFE", "PSNR, dB", "worst tenth below"]
    lines = [
        [
            f'`"{row["quality"]}"`',
            f"{row['allowed error']:g}",
            f"{row['latent error']:.3f}",
            str(row["NFE"]),
            decimals(row["PSNR, dB"]),
            decimals(row["worst tenth below, dB"]),
        ]
        for row in rows
    ]
    return [header, ['`"exact"`', "0", "0", "50", "∞", "∞"], *lines]


@table("defaults", "defaults")
def _defaults(rows: list[Row]) -> list[list[str]]:
    """Mean over budgets by setting; the last column counts every model once."""
    models: dict[str, list[str]] = {}
    for row in rows:
        settings = models.setdefault("earlier" if row["setting"].startswith("earlier") else row["setting"][:5], [])
        if row["setting"] not in settings:
            settings.append(row["setting"])
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        means = {
            setting: fmean(row["PSNR, dB"] for row in rows if (row["setting"], row["method"]) == (setting, method))
            for settings in models.values()
            for setting in settings
        }
        overall = fmean(fmean(means[setting] for setting in settings) for settings in models.values())
        lines.append((overall, [method, *(decimals(mean) for mean in means.values()), decimals(overall)]))
    header = ["method", *(setting for settings in models.values() for setting in settings), "mean over models"]
    return [header, *(line for _, line in sorted(lines, reverse=True))]
