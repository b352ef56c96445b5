"""The recorded rows as tables to be read in a terminal."""

from itertools import groupby


def table(rows: list[dict]) -> str:
    """One block a kind, size and setting, one line a way, one column a number of inner steps."""
    blocks = []
    key = lambda row: tuple(row[name] for name in _NAMES)  # noqa: E731
    for (kind, *setting), group in groupby(sorted(rows, key=key), key):
        blocks.append(_BLOCKS[kind](setting, list(group)))
    return "\n\n".join(blocks)


_NAMES = ("kind", "size", "device", "threads", "weights", "rate")


def _time(setting, rows) -> str:
    def cell(row):
        return f"{row['seconds']:.3f} s  ×{row['ratio']:.2f}  {row['vae_ratio']:.0f} VAE"

    return _grid(f"Time, and as a ratio to published: {_title(setting)}", rows, cell)


def _memory(setting, rows) -> str:
    return _grid(f"Peak memory: {_title(setting)}", rows, lambda row: f"{row['peak_mb']:.0f} MB")


def _error(setting, rows) -> str:
    def cell(row):
        parts = (row["error_encoder"], row["error_decoder"])
        return "  ".join("not finite" if part is None else f"{part:.1e}" for part in parts)

    growth = {row["k"]: row["growth"] for row in rows if "growth" in row}
    grown = ", ".join(f"{k}: {value:.2g}" for k, value in sorted(growth.items()))
    return _grid(f"Error, encoder and decoder: {_title(setting)}. Growth {grown}", rows, cell)


_BLOCKS = {"time": _time, "memory": _memory, "error": _error}


def _title(setting) -> str:
    size, device, threads, weights, rate = setting
    return f"size {size}, {weights} weights, inner rate {rate:g}, {device}, {threads} thread{'s' * (threads > 1)}"


def _grid(title: str, rows: list[dict], cell) -> str:
    steps = sorted({row["k"] for row in rows})
    ways = list(dict.fromkeys((row["way"], row["dtype"]) for row in rows))
    cells = {(row["way"], row["dtype"], row["k"]): row.get("error") or cell(row) for row in rows}
    lines = [["", *(f"K = {k}" for k in steps)]]
    for way, dtype in ways:
        name = way if dtype == "float32" else f"{way}, {dtype}"
        lines.append([name, *(cells.get((way, dtype, k), "")[:40] for k in steps)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *body])
