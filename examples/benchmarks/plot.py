"""Line charts as SVG: points that were measured, and dashed beyond the last what a straight line would reach."""

import html
import math

COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4b94"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 62, 16, 40, 62


def text(x, y, words, anchor="middle", size=12, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{html.escape(words)}</text>'


def short(value):
    """1,200,000 as 1.2M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def ticks(top):
    """Round steps from 0 to the top of an axis."""
    step = 10 ** math.floor(math.log10(top))
    while top / step < 3:
        step /= 2
    return [step * n for n in range(int(top / step) + 1)]


def panel(title, unit, sizes, lines, more_is_better):
    """One chart; `lines` maps a name to a value (or None) for each size."""
    known = {name: [(n, v) for n, v in zip(sizes, values) if v is not None] for name, values in lines.items()}
    known = {name: points for name, points in known.items() if points}
    ahead = {name: beyond(points, more_is_better) for name, points in known.items()}
    first, last = math.floor(math.log10(min(sizes))), math.log10(max(sizes)) + 1
    top = 1.15 * max([v for points in known.values() for _, v in points] + [p[1] for p in ahead.values() if p] + [1e-9])
    x = lambda n: LEFT + (math.log10(n) - first) / (last - first) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    y = lambda v: HEIGHT - BOTTOM - v / top * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>' + text(WIDTH / 2, 22, title, size=14, more='font-weight="bold"')
    for value in ticks(top):
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e3e3e3"/>'
        yield text(LEFT - 6, y(value) + 4, short(value), "end", 11)
    for power in range(first, math.floor(last) + 1):
        yield f'<line x1="{x(10**power):.1f}" x2="{x(10**power):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#f0f0f0"/>'
        yield text(x(10**power), HEIGHT - BOTTOM + 16, "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power)), size=11)
    yield text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - BOTTOM + 32, "events in the log (logarithmic)", size=11)
    yield text(14, TOP + (HEIGHT - TOP - BOTTOM) / 2, unit, size=11, more=f'transform="rotate(-90 14 {TOP + (HEIGHT - TOP - BOTTOM) / 2})"')
    for number, (name, points) in enumerate(known.items()):
        colour, at = COLOURS[number], LEFT + number * (WIDTH - LEFT - RIGHT) / max(2, len(known))
        path = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"/>' for n, v in points)
        if ahead[name]:
            (n, v), (to, reached) = points[-1], ahead[name]
            dashes = f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="5 4"'
            yield f'<line x1="{x(n):.1f}" y1="{y(v):.1f}" x2="{x(to):.1f}" y2="{y(reached):.1f}" {dashes}/>'
        yield f'<circle cx="{at + 4:.1f}" cy="{HEIGHT - 12}" r="3.5" fill="{colour}"/>' + text(at + 12, HEIGHT - 8, name, "start", 11)


def beyond(points, more_is_better):
    """Where the line through the last two points is after another tenfold, linear in log10; never better than the last."""
    if len(points) < 2:
        return None
    (n0, v0), (n1, v1) = points[-2:]
    slope = (v1 - v0) / (math.log10(n1) - math.log10(n0))
    slope = min(slope, 0) if more_is_better else max(slope, 0)
    return n1 * 10, max(0.0, v1 + slope)


def page(title, note, sizes, panels):
    """All panels, two in a row."""
    height = 78 + (len(panels) + 1) // 2 * HEIGHT
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" font-family="system-ui, sans-serif" fill="#222">'
    yield f'<rect width="{2 * WIDTH}" height="{height}" fill="#fff"/>' + text(WIDTH, 26, title, size=18, more='font-weight="bold"')
    yield text(WIDTH, 46, note, size=11) + text(WIDTH, 62, "dots: measured; dashed: extrapolated through the last two points, never better than the last", size=11)
    for number, (name, unit, lines, more_is_better) in enumerate(panels):
        yield f'<g transform="translate({number % 2 * WIDTH} {78 + number // 2 * HEIGHT})">'
        yield from panel(name, unit, sizes, lines, more_is_better)
        yield "</g>"
    yield "</svg>"
