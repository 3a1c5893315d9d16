"""A picture of two distributions, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["distributions"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 360, 20, 20, 78, 48
_BINS: Final = 80
_COLOURS: Final = ("#b35806", "#2166ac")  # told apart by the colour-blind, and in grey
_CUT: Final = 0.02


def distributions(title: str, samples: Sequence[tuple[str, Sequence[float]]], subtitle: str = "") -> str:
    """The text of an SVG file: a histogram of two samples on one scale, with their medians.

    The outermost 2 % of both samples together are left out at each end, so that wild values don't decide the scale.

    :param samples: a name and the values of each, in TSC cycles per exit; one value at least.
    """
    everything = sorted(value for _, values in samples for value in values)
    cut = int(len(everything) * _CUT)
    low, high = everything[cut], everything[-1 - cut]
    low, high = (low, high) if high - low > 1e-9 else (low - 1, high + 1)
    width = (high - low) / _BINS
    shares = []
    for _, values in samples:
        counts = [0] * _BINS
        for value in values:
            if low <= value <= high:
                counts[min(int((value - low) / width), _BINS - 1)] += 1
        shares.append([count / len(values) for count in counts])
    top = max(max(share) for share in shares) or 1.0
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * across

    def y(share: float) -> float:
        return _TOP + down * (1 - share / top)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            'font-family="sans-serif" font-size="12">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="38" fill="#444444">{escape(subtitle)}</text>',
    ]
    for number, ((name, values), share) in enumerate(zip(samples, shares)):
        colour = _COLOURS[number % len(_COLOURS)]
        steps = "".join(f"V{y(value):.1f}H{x(low + (at + 1) * width):.1f}" for at, value in enumerate(share))
        middle = median(values)
        label = f"{name}: median {middle:.1f}, {len(values)} values"
        parts += [
            (
                f'<path d="M{x(low):.1f} {y(0):.1f}{steps}V{y(0):.1f}Z" fill="{colour}" fill-opacity="0.35" '
                f'stroke="{colour}"/>'
            ),
            f'<rect x="{_LEFT + 340 * number}" y="50" width="12" height="12" fill="{colour}"/>',
            f'<text x="{_LEFT + 18 + 340 * number}" y="61">{escape(label)}</text>',
        ]
        if low <= middle <= high:
            parts.append(
                f'<line x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{_TOP}" y2="{y(0):.1f}" stroke="{colour}" '
                'stroke-dasharray="4 3"/>'
            )
    for step in range(6):
        value = low + (high - low) * step / 5
        anchor = "start" if step == 0 else "end" if step == 5 else "middle"
        parts.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - 28}" text-anchor="{anchor}">{value:.0f}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 10}" fill="#444444">TSC cycles per exit</text>')
    parts.append(f'<path d="M{_LEFT} {y(0):.1f}H{_WIDTH - _RIGHT}" stroke="#444444"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
