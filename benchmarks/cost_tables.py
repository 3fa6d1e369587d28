"""How each quoted table of costs is made from the results: time, memory, operations."""

from __future__ import annotations

from benchmarks.rendering import Row, decimals, table


@table("speed", "speed", "speed_cfg")
def _speed(plain: list[Row], guided: list[Row]) -> list[list[str]]:
    budgets = (25, 14, 10, 7)
    lines = []
    for rows, suffix in ((plain, ""), (guided, ", guidance 3 (two forward passes per step)")):
        for method in dict.fromkeys(row["method"] for row in rows):
            realised = {row["NFE"]: row["realised"] for row in rows if row["method"] == method}
            lines.append([method + suffix, *(decimals(realised.get(budget), 3) for budget in budgets)])
    return [["method", *(f"{budget} NFE" for budget in budgets)], *lines]


@table("own-time", "speed", "speed_cfg")
def _own_time(plain: list[Row], guided: list[Row]) -> list[list[str]]:
    header = ["method", "NFE", "T / NFE", "attainable", "realised", "own, ms per computed step", "per skipped step"]
    after_skip = ("computed after a skip / reference", "the same without Foreseer")
    lines = []
    for row in (*plain, *guided):
        times = [decimals(row.get(f"own, ms per {kind} step"), 2) for kind in ("computed", "skipped")]
        speedups = [decimals(row.get(column), 2) for column in ("T / NFE", "attainable", "speedup")]
        suffix = f", guidance {row['guidance']:g}" if row["guidance"] > 1 else ""
        cold = [
            decimals(row.get(name), 2) for name in ("computed after a skip / reference", "the same without Foreseer")
        ]
        lines.append([row["method"] + suffix, str(row["NFE"]), *speedups, *times, *cold])
    return [[*header, *after_skip], *lines]


@table("memory", "memory")
def _memory(rows: list[Row]) -> list[list[str]]:
    keys = ("method", "NFE", "announced, bytes", "measured extra, bytes")
    return [
        ["method", "NFE", "announced, bytes", "measured, bytes"],
        *([str(row[key]) for key in keys] for row in rows),
    ]


@table("mixing-cost", "mixing_cost")
def _mixing_cost(rows: list[Row]) -> list[list[str]]:
    return [
        ["feature", "with mixing, x the time of scalar rows"],
        *([row["shape"], decimals(row["ratio"], 2)] for row in rows),
    ]


@table("sites", "sites")
def _sites(rows: list[Row]) -> list[list[str]]:
    header = ["method", "site", "NFE", "PSNR, dB", "operations, x fewer", "tensors", "held, KiB", "forecasts, MFLOP"]
    names = {"last_block": "last block", "tokens(alternate=true)": "tokens, alternating"}
    lines = [
        [
            row["method"],
            names.get(row["site"], row["site"]),
            str(row["NFE"]),
            decimals(row["PSNR, dB"]),
            decimals(row["speedup in operations"], 2),
            str(row["tensors of a feature"]),
            f"{row['features held, bytes'] / 1024:.0f}",
            decimals(row["operations of forecasts"] / 1e6),
        ]
        for row in rows
    ]
    return [header, *lines]


@table("operations", "operations")
def _operations(rows: list[Row]) -> list[list[str]]:
    header = ["model", "size", "parameters, billion", "NFE", "FLOPs, T", "published"]
    return [
        header,
        *(
            [
                row["model"],
                row["size"],
                f"{row[header[2]]:.2f}",
                str(row["NFE"]),
                str(row["FLOPs, T"]),
                str(row["published"]),
            ]
            for row in rows
        ),
    ]


@table("forecast-cost", "forecast_cost")
def _forecast_cost(rows: list[Row]) -> list[list[str]]:
    keys = ("forecast, ms", "over ours", "run per skipped step, ms", "over ours, run")
    lines = [[row["shape"], row["method"], row["implementation"], *(f"{row[key]:.3g}" for key in keys)] for row in rows]
    return [["shape", "method", "implementation", "forecast, ms", "ratio", "run, ms", "ratio"], *lines]


@table("random-weights", "random_weights_small")
def _random_weights(rows: list[Row]) -> list[list[str]]:
    header = [
        "model",
        "preset",
        "method",
        "NFE",
        "speedup",
        "published",
        "FLOPs ratio",
        "published",
        "extra memory, MiB",
    ]
    lines = [
        [
            *(row["model"], row["preset"], row["method"], str(row["NFE"]), decimals(row["speedup"], 2)),
            *(str(row["published"]), decimals(row["FLOPs ratio"], 2), str(row["published FLOPs ratio"])),
            decimals(row["extra, MiB"], 2),
        ]
        for row in rows
        if not row["error"] and row["method"] != "Every step"
    ]
    return [header, *lines]


@table("soak", "soak", "soak_plain", "soak_unattached_plain")
def _soak(*results: list[Row]) -> list[list[str]]:
    header = [
        "attached",
        "changed",
        "runs",
        "handles",
        "broken off",
        "with fail-opens",
        "errors",
        "compared, different",
    ]
    header += ["live tensors, MiB: first quarter, end", "growth of resident memory, KiB per run"]
    settings = (("yes", "everything"), ("yes", "policies and calls"), ("no", "policies and calls"))
    lines = []
    for (attached, changed), (row,) in zip(settings, results, strict=True):
        counts = [str(row[key]) for key in ("generations", "handles", "broken off", "fail-opens", "errors")]
        compared = f"{row['compared with a fresh process']}, {row['other than in a fresh process']}"
        tensors = [decimals(row[f"tensors at the {when}, MiB"]) for when in ("first quarter", "end")]
        growth = decimals(row["slope, KiB a generation"], 0)
        lines.append([attached, changed, *counts, compared, ", ".join(tensors), growth])
    return [header, *lines]
