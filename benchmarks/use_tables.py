"""Tables of refinement, learned solvers, quantised and adapted networks, made from the results."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rendering import MISSING, Row, decimals, named, table


def _unique(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


@table("refinement", "fidelity")
def _refinement(rows: list[Row]) -> list[list[str]]:
    header = ["NFE", "rows", "fitted from", "PSNR, dB", "latent error", "expected error", "passes", "CPU seconds"]
    lines = []
    for row in rows:
        start = named([other for other in rows if other["NFE"] == row["NFE"]], row["from"], "rows")
        gain = 1000 * (row["PSNR, dB"] - start["PSNR, dB"]) / row["passes"] if start else None
        expected = row["expected error"]
        lines.append(
            [
                *(str(row["NFE"]), row["rows"], row["from"] or MISSING, decimals(row["PSNR, dB"])),
                *(decimals(row["latent error"], 4), MISSING if expected is None else expected),
                *(str(row["passes"]), f"{row['seconds']:.0f}", MISSING if gain is None else f"{gain:+.1f}"),
            ]
        )
    return [[*header, "dB per 1000 passes"], *lines]


@table("learned-solvers", "learned_solvers")
def _learned_solvers(rows: list[Row]) -> list[list[str]]:
    budgets = sorted({row["NFE"] for row in rows}, reverse=True)
    header = ["method"]
    for budget in budgets:
        header += [f"{budget} NFE, dB", "latent error", "CPU seconds to make"]
    lines = []
    for method in _unique(rows, "method"):
        cells, label = [], method if method in ("rollout", "refined") else f"`{method}`"
        for budget in budgets:
            row = named([row for row in rows if row["NFE"] == budget], method)
            stopped = row.get("settings", {}).get("ended by") == "its limit of passes"
            cells += [decimals(row.get("PSNR, dB")) + (" (stopped)" if stopped else "")]
            cells += [decimals(row.get("latent error"), 4), decimals(row.get("CPU seconds to make"), 0)]
        lines.append([label, *cells])
    return [header, *lines]


@table("quantised", "quantised")
def _quantised(rows: list[Row]) -> list[list[str]]:
    networks = _unique(rows, "network")
    of_network = {network: [row for row in rows if row["network"] == network] for network in networks}

    def shares(column: str) -> list[str]:
        return [f"{of_network[network][0][column]:.1%}" for network in networks]

    lines = [["*error of one pass*", *shares("noise per pass")], ["*of it fresh*", *shares("fresh noise")]]
    for method in _unique(rows, "method"):
        decibels = [named(of_network[network], method).get("PSNR, dB") for network in networks]
        cells = ["equal" if value == 99 else decimals(value) for value in decibels]
        lines.append([f"*{method}*" if method == "two full runs" else method, *cells])
    return [["PSNR, dB", *networks], *lines]


@table("quantised-gains", "quantised")
def _quantised_gains(rows: list[Row]) -> list[list[str]]:
    networks = _unique(rows, "network")
    lines = []
    for method in _unique(rows, "method")[1:]:
        cells = [named([row for row in rows if row["network"] == network], method) for network in networks]
        lines.append([method, *(f"{row['L1 gain']:.2f}, {row['L2 gain']:.2f}" for row in cells)])
    return [["L1 gain, L2 gain", *networks], *lines]


@table("adapted", "adapted")
def _adapted(rows: list[Row]) -> list[list[str]]:
    methods = sorted(_unique(rows, "method"), key=lambda name: (name != "generic", name.startswith("rollout")))
    lines = []
    for setting in _unique(rows, "setting"):
        measured = [row for row in rows if row["setting"] == setting]
        like = measured[0]["like the base, dB"]
        cells = [decimals(named(measured, method).get("PSNR, dB")) for method in methods]
        lines.append([setting, "equal" if like == 99 else decimals(like), *cells])
    return [["", "full run like the base's", *methods], *lines]
