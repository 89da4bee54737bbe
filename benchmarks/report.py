"""The figures as text and as a picture."""

from typing import Any


def text(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, {figures['python']}",
        f"{figures['rounds']} rounds of {figures['starts']} starts; medians, and the middle half of all",
        "",
        *table(figures["alone"]),
        "",
        *table(figures["growth"]),
        "",
        *table(figures["commands"], "of click"),
        "",
        f"{'started together':40} {'tasks':>6} {'all ended':>11} {'cpu a task':>11} {'calls a task':>13}",
    ]
    for row in figures["at once"]:
        lines.append(
            f"{row['name']:40} {row['tasks']:6} {row['until all ended ms']:8.1f} ms"
            f" {row['cpu ms a task']:8.2f} ms {shown(row['calls a task']):>13}"
        )
    if figures["slurm"]:
        head = f"{'from srun to the first line of output':40} {'median':>11} {'middle half':>17}"
        lines += ["", f"{head} {'bare starts more':>18}"]
    for row in figures["slurm"]:
        low, high = row["quartiles"]
        median = f"{row['what']:40} {row['ms']:8.1f} ms {low:8.1f} … {high:6.1f}"
        lines.append(f"{median} {ratio(row['bare starts more']):>18}".rstrip())
    if figures["unpacking"]:
        lines += ["", *unpacking(figures["unpacking"])]
    return "\n".join(lines)


def unpacking(found: dict[str, Any]) -> list[str]:
    image = f"an archive of {found['files']} files, {found['megabytes']} MB"
    return [
        f"{image:40} {'unpackings':>11} {'step':>9} {'of one task':>12} {'unpacked already':>17}",
        *(
            f"{row['tasks']:3} tasks {'':30} {row['unpackings']:11} {row['s']:7.2f} s"
            f" {row['of one task']:12.2f} {row['unpacked already s']:15.2f} s"
            for row in found["rows"]
        ),
    ]


def table(rows: list[dict[str, Any]], of: str = "of bare") -> list[str]:
    head = (
        f"{'':40} {'median':>11} {'middle half':>17} {of:>8} {'runtime left out':>17}"
        f" {'file-system calls':>18}"
    )
    return [
        head,
        *(
            f"{row['what']:40} {row['ms']:8.2f} ms {row['quartiles'][0]:8.2f} … {row['quartiles'][1]:6.2f}"
            f" {row['of bare']:8.2f} {ratio(row['without the runtime']):>17} {shown(row['calls']):>18}"
            for row in rows
        ),
    ]


def ratio(found: float | None) -> str:
    return "" if found is None else f"{found:.2f}"


def shown(calls: int | None) -> str:
    return "no strace" if calls is None else str(calls)


def svg(rows: list[dict[str, Any]]) -> str:
    """Bars of the medians, with a line over the middle half of all."""
    height, left, width = 26, 300, 420
    scale = width / max(row["quartiles"][1] for row in rows)
    parts = []
    for number, row in enumerate(rows):
        y = 20 + number * height
        low, high = (left + q * scale for q in row["quartiles"])
        end = left + row["ms"] * scale
        middle = y + height / 2 - 4
        parts += [
            f'<text x="{left - 8}" y="{middle + 4:.0f}" text-anchor="end">{escaped(row["what"])}</text>',
            f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{height - 8}" fill="#6a8caf"/>',
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#222" stroke-width="2"/>',
            f'<text x="{max(high, end) + 6:.1f}" y="{middle + 4:.0f}">{row["ms"]:.1f} ms</text>',
        ]
    size = f'width="{left + width + 90}" height="{40 + len(rows) * height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;")
