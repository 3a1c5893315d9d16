"""A picture of two distributions, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["distributions"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 360, 20, 20, 78, 48
_ACROSS, _DOWN = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_BINS: Final = 80
_TICKS: Final = 5
_COLOURS: Final = ("#b35806", "#2166ac")  # different for the colour-blind, and in grey
_CUT: Final = 0.02
_LEAST: Final = 1e-9


@dataclass(frozen=True)
class _Scale:
    """The scale of the picture, in both directions.

    :param low: the value at the left, in cycles; ``high`` is at the right.
    :param top: the share at the top.
    """

    low: float
    high: float
    top: float = 1.0

    @property
    def bin(self) -> float:
        """The width of a bin, in cycles."""
        return (self.high - self.low) / _BINS

    def x(self, value: float) -> float:
        """The place of a value."""
        return _LEFT + (value - self.low) / (self.high - self.low) * _ACROSS

    def y(self, share: float) -> float:
        """The height of a share."""
        return _TOP + _DOWN * (1 - share / self.top)


def distributions(title: str, samples: Sequence[tuple[str, Sequence[float]]], subtitle: str = "") -> str:
    """The text of an SVG file: a histogram of two samples on one scale, with their medians.

    The outermost 2 % of both samples together are left out at each end, so that wild values don't decide the scale.

    :param samples: a name and the values of each, in TSC cycles per exit; one value at least.
    """
    across = _scale([value for _, values in samples for value in values])
    shares = [_shares(values, across) for _, values in samples]
    scale = _Scale(across.low, across.high, max(max(share) for share in shares) or 1.0)
    lines = list(_frame(title, subtitle))
    for number, ((name, values), share) in enumerate(zip(samples, shares)):
        lines += _sample(number, name, values, share, scale)
    lines += _axis(scale)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _scale(everything: Sequence[float]) -> _Scale:
    ordered = sorted(everything)
    cut = int(len(ordered) * _CUT)
    low, high = ordered[cut], ordered[-1 - cut]
    return _Scale(low, high) if high - low > _LEAST else _Scale(low - 1, high + 1)


def _shares(values: Sequence[float], scale: _Scale) -> list[float]:
    """The share of the values in each bin."""
    counts = [0] * _BINS
    for value in values:
        if scale.low <= value <= scale.high:
            counts[min(int((value - scale.low) / scale.bin), _BINS - 1)] += 1
    return [count / len(values) for count in counts]


def _frame(title: str, subtitle: str) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    yield f'<text x="{_LEFT}" y="20" font-size="15">{escape(title)}</text>'
    yield f'<text x="{_LEFT}" y="38" fill="#444444">{escape(subtitle)}</text>'


def _sample(number: int, name: str, values: Sequence[float], shares: Sequence[float], scale: _Scale) -> Iterator[str]:
    """The histogram of one sample, its label, and a line at its median."""
    colour = _COLOURS[number % len(_COLOURS)]
    middle, floor = median(values), scale.y(0)
    steps = "".join(
        f"V{scale.y(share):.1f}H{scale.x(scale.low + (at + 1) * scale.bin):.1f}" for at, share in enumerate(shares)
    )
    yield (
        f'<path d="M{scale.x(scale.low):.1f} {floor:.1f}{steps}V{floor:.1f}Z" fill="{colour}" fill-opacity="0.35" '
        f'stroke="{colour}"/>'
    )
    label = f"{name}: median {middle:.1f}, {len(values)} values"
    yield f'<rect x="{_LEFT + 340 * number}" y="50" width="12" height="12" fill="{colour}"/>'
    yield f'<text x="{_LEFT + 18 + 340 * number}" y="61">{escape(label)}</text>'
    if scale.low <= middle <= scale.high:
        at = scale.x(middle)
        yield (
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{floor:.1f}" stroke="{colour}" stroke-dasharray="4 3"/>'
        )


def _axis(scale: _Scale) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        value = scale.low + (scale.high - scale.low) * tick / _TICKS
        anchor = {0: "start", _TICKS: "end"}.get(tick, "middle")
        yield f'<text x="{scale.x(value):.1f}" y="{_HEIGHT - 28}" text-anchor="{anchor}">{value:.0f}</text>'
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 10}" fill="#444444">TSC cycles per exit</text>'
    yield f'<path d="M{_LEFT} {scale.y(0):.1f}H{_WIDTH - _RIGHT}" stroke="#444444"/>'
