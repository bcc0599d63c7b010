"""The fleet's coverage as one HTML page: no script, no network, one file to keep or to send.

Each device is a strip over time. A cell is filled from below, in thirds, by the rows that are not simply
present: the worst state lowest, so that a single missing row shows and a whole missing hour shows more. The
colours differ in lightness, so the picture reads without seeing hues and in print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from html import escape

from stationkeeper.telemetry.picture_model import Cell, Counts, Line, Model
from stationkeeper.telemetry.picture_text import length, minute, percent, plural, second, short, table

#: State to colour, from the lightest to the darkest.
COLOURS = {"present": "#d3e5f0", "recovered": "#6cb2da", "explained": "#b3700f", "open": "#6a0f2b"}
_MEANING = {
    "present": "sent by the station",
    "recovered": "stored later, by a back-fill",
    "explained": "missing, and it is known why",
    "open": "missing, and nobody can say why",
}
# Widths in pixels of a strip's parts: name, time, and each of the numbers.
_NAME, _TIME, _NUMBER = 190, 840, 72
_WIDTH = _NAME + _TIME + 4 * _NUMBER
# So many devices are drawn with a strip of so many pixels (a multiple of three). Above, without names.
_HEIGHTS = ((60, 15), (240, 9))
_DENSE = 3
# In a fleet that is drawn without names, this many devices get their name.
_WORST = 40
_LISTED = 20
_DAY = timedelta(days=1)
_TICKS = tuple(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12, 24, 48))

_STYLE = """
:root{color-scheme:light}
body{font:14px/1.4 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;color:#1c2430;background:#fff;
margin:24px auto;padding:0 16px;max-width:%(width)spx}
h1{font-size:24px;margin:0}h2{font-size:16px;margin:28px 0 4px}
h2 .quiet{font-weight:normal}p{margin:4px 0}.quiet{color:#525c68}
svg{display:block;width:100%%;height:auto}svg text{font-family:inherit;fill:#1c2430}
.states{display:grid;grid-template-columns:repeat(5,1fr);gap:12px;margin:16px 0 8px}
.states div{border:1px solid #c9d0d8;border-top-width:10px;border-radius:3px;padding:8px 12px}
.states b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.axis{position:sticky;top:0;background:#fff;border-bottom:1px solid #c9d0d8;z-index:1}
table{border-collapse:collapse;margin:4px 0;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:2px 16px 2px 0;border-bottom:1px solid #e3e7ec;vertical-align:top}
td.n,th.n{text-align:right}
@media print{.axis{position:static}}
"""


def draw(model: Model) -> str:
    """Return the page. Times are UTC. Equal models give equal bytes."""
    counts = model.counts
    tall = next((height for most, height in _HEIGHTS if len(model.devices) <= most), _DENSE)
    parts = [
        f"<h1>Telemetry coverage</h1><p>{minute(model.start)} to {minute(model.end)} UTC, "
        f"{plural(len(model.devices), 'device')} of {plural(len(model.sites), 'site')}, "
        f"a column is {length(model.step)}. Drawn {minute(model.made_at)} UTC.</p>",
        _states(counts),
        f'<div class="axis">{_axis(model)}</div>',
    ]
    if len(model.sites) > 1:
        parts += ["<h2>Sites</h2>", _strips(model, model.sites, 15)]
    if tall == _DENSE:
        worst = [line for line in model.devices[:_WORST] if line.counts.open or line.counts.explained]
        if worst:
            parts += [f"<h2>The {plural(len(worst), 'worst device')}</h2>", _strips(model, worst, 15)]
    if tall == _DENSE:
        parts.append("<h2>All devices, by site</h2>")
    for site in model.sites:
        lines = [line for line in model.devices if line.site == site.name]
        if tall == _DENSE:
            parts.append(_dense(model, site, lines))
        else:
            parts.append(
                f'<h2>{escape(site.name)} <span class="quiet">{_summary(lines)}</span></h2>'
                + _strips(model, lines, tall)
            )
    if model.idle_sites:
        idle = escape(", ".join(model.idle_sites))
        parts.append(f"<h2>Not in service</h2><p>No device was in service at {idle}.</p>")
    parts += [_gaps(model), _reasons(model)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width">'
        f"<title>Telemetry coverage {minute(model.start)} to {minute(model.end)}</title>"
        f"<style>{_STYLE % {'width': _WIDTH}}</style></head>\n<body>" + "\n".join(parts) + "</body></html>\n"
    )


def _states(counts: Counts) -> str:
    """Return the legend with the totals, and the sum that proves them."""
    boxes = [
        f'<div style="border-top-color:{COLOURS[state]}">{state}'
        f"<b>{counts.of(state):,}</b>{percent(counts.of(state), counts.expected)}"
        f'<br><span class="quiet">{meaning}</span></div>'
        for state, meaning in _MEANING.items()
    ]
    boxes.append(
        '<div style="border-top-style:dotted;border-top-width:2px;padding-top:16px">not in service'
        '<br><span class="quiet">a dotted line: the registry expects no rows of the device</span></div>'
    )
    total = " + ".join(f"{counts.of(state):,} {state}" for state in COLOURS)
    return (
        f'<div class="states">{"".join(boxes)}</div><p>{counts.expected:,} rows expected = {total}.</p>'
        '<p class="quiet">A cell is filled from below, in thirds of the rows due in it: open first, then '
        "explained, then recovered. One missing row fills one third; in a strip without a name "
        "it fills the cell. The worst stand on top.</p>"
    )


def _axis(model: Model) -> str:
    text = ""
    for moment in _ticks(model):
        midnight = moment.hour == moment.minute == 0
        look, word = (' font-weight="bold"', f"{moment:%d %b}") if midnight else ("", f"{moment:%H:%M}")
        x = _x(model, moment)
        text += f'<text x="{x:.1f}" y="12" font-size="11" text-anchor="middle"{look}>{word}</text>'
    for number, name in enumerate(("open", "explained", "recovered", "stored")):
        x = _NAME + _TIME + (number + 1) * _NUMBER
        text += f'<text x="{x}" y="12" font-size="11" text-anchor="end">{name}</text>'
    return f'<svg viewBox="0 0 {_WIDTH} 17" role="presentation">{text}</svg>'


def _strips(model: Model, lines: Sequence[Line], tall: int) -> str:
    """Return a block of named strips, ``tall`` pixels each."""
    pitch = tall + 3
    strips = (
        _strip(model, line, number * pitch, tall) + _words(line.name, line.counts, number * pitch, tall)
        for number, line in enumerate(lines)
    )
    return _block(model, pitch * len(lines), "".join(strips))


def _dense(model: Model, site: Line, lines: Sequence[Line]) -> str:
    """Return a block of strips that are too low for names: the site's stands beside them."""
    pitch = _DENSE + 1
    strips = "".join(_strip(model, line, number * pitch, _DENSE) for number, line in enumerate(lines))
    words = _words(site.name, site.counts, 0, 15)
    words += f'<text x="0" y="28" font-size="11" fill="#525c68">{_summary(lines)}</text>'
    return _block(model, max(36, pitch * len(lines) + 8), strips + words)


def _block(model: Model, height: int, content: str) -> str:
    ticks = "".join(
        f'<path d="M{_x(model, moment):.1f} 0V{height}" stroke="#1c2430" stroke-opacity=".25"/>'
        for moment in _ticks(model)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="coverage over time">'
        f"{content}{ticks}</svg>"
    )


def _strip(model: Model, line: Line, y: int, tall: int) -> str:
    counts = line.counts
    title = f"{line.name}: " + ", ".join(f"{counts.of(state):,} {state}" for state in COLOURS)
    parts = [f"<g><title>{escape(title)}</title>"]
    paths: dict[str, list[str]] = {}
    edges = [_x(model, model.start)]
    edges += [_x(model, model.first_bucket + n * model.step) for n in range(1, len(line.cells))]
    edges.append(_x(model, model.end))
    third = tall // 3
    # Neighbours of one kind are one rectangle: a page of a thousand devices stays small.
    first = 0
    for number, cell in enumerate(line.cells):
        fill = _thirds(cell, tall)
        if number + 1 < len(line.cells) and _thirds(line.cells[number + 1], tall) == fill:
            continue
        bottom = 3
        for state, thirds in fill.items():
            if thirds:
                top = y + (bottom - thirds) * third
                width = edges[number + 1] - edges[first]
                paths.setdefault(state, []).append(
                    f"M{edges[first]:.1f} {top}h{width:.1f}v{thirds * third}h-{width:.1f}z"
                )
            bottom -= thirds
        if not fill:
            paths.setdefault("", []).append(
                f"M{edges[first]:.1f} {y + tall // 2 + 0.5}H{edges[number + 1]:.1f}"
            )
        first = number + 1
    for state, moves in paths.items():
        look = f'fill="{COLOURS[state]}"' if state else 'stroke="#7b8794" stroke-dasharray="1 3" fill="none"'
        parts.append(f'<path {look} d="{"".join(moves)}"/>')
    return "".join(parts) + "</g>"


def _words(name: str, counts: Counts, y: int, tall: int) -> str:
    base = y + tall - max(1, tall // 5)
    size = min(12, tall + 1)
    numbers: Iterable[str] = (
        *(
            f"{counts.of(state):,}" if counts.of(state) else "·"
            for state in ("open", "explained", "recovered")
        ),
        percent(counts.present + counts.recovered, counts.expected),
    )
    text = f'<text x="0" y="{base}" font-size="{size}">{escape(short(name))}</text>'
    for number, word in enumerate(numbers):
        bold = ' font-weight="bold"' if number == 0 and counts.open else ""
        x = _NAME + _TIME + (number + 1) * _NUMBER
        text += f'<text x="{x}" y="{base}" font-size="{size}" text-anchor="end"{bold}>{word}</text>'
    return text


def _thirds(cell: Cell, tall: int) -> dict[str, int]:
    """Return how many thirds of a cell each state fills, from below; nothing out of service.

    A third of a dense strip is too little to see: there the worst state fills the cell.
    """
    if not cell.due:
        return {}
    due = max(cell.due, cell.open + cell.explained + cell.recovered)
    fill: dict[str, int] = {}
    left = 3
    for state, rows in (("open", cell.open), ("explained", cell.explained), ("recovered", cell.recovered)):
        # Half a row of tolerance: rows do not lie on the edges of the buckets.
        share = 3 if tall == _DENSE else max(1, round(3 * rows / due))
        fill[state] = min(left, share) if rows else 0
        left -= fill[state]
    return fill | {"present": left}


def _gaps(model: Model) -> str:
    if not model.gaps:
        return "<h2>No open gap</h2>"
    listed = model.gaps[:_LISTED]
    title = f"The longest of {len(model.gaps):,} open gaps" if len(model.gaps) > _LISTED else "Open gaps"
    rows = [
        (
            gap.device,
            second(gap.start),
            "no row since" if gap.lasting else second(gap.end),
            f"{gap.rows:,}",
        )
        for gap in listed
    ]
    return f"<h2>{title}</h2>" + table(("device", "from", "to", "rows missing"), rows)


def _reasons(model: Model) -> str:
    if not model.reasons:
        return ""
    rows = [(text, f"{count:,}") for text, count in model.reasons[:_LISTED]]
    if len(model.reasons) > _LISTED:
        rest = sum(count for _, count in model.reasons[_LISTED:])
        rows.append((f"{len(model.reasons) - _LISTED} other reasons", f"{rest:,}"))
    return "<h2>Explained</h2>" + table(("why", "rows missing"), rows)


def _summary(lines: Sequence[Line]) -> str:
    """Return how many devices a site has, and how many of them have open gaps."""
    with_open = sum(1 for line in lines if line.counts.open)
    words = f"{with_open} with open gaps" if with_open else "no open gap"
    return f"{plural(len(lines), 'device')}, {words}"


def _ticks(model: Model) -> list[datetime]:
    """Return the moments to label: full hours or midnights, at most a dozen."""
    window = model.end - model.start
    step = next((step for step in _TICKS if window / step <= 12), None) or -(-window // (12 * _DAY)) * _DAY
    midnight = model.start.replace(hour=0, minute=0, second=0, microsecond=0)
    tick = midnight + -(-(model.start - midnight) // step) * step
    ticks = []
    while tick <= model.end:
        ticks.append(tick)
        tick += step
    return ticks


def _x(model: Model, moment: datetime) -> float:
    return _NAME + _TIME * ((moment - model.start) / (model.end - model.start))
