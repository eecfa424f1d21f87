"""The report's pictures, drawn by matplotlib without its global state: PNG bytes for a light and for a dark page.

Each function returns a `Picture`; its text says in words what is to be seen. Colours are from M. Okabe and
K. Ito's set, which people with any colour vision tell apart; sign and method also differ in hatch and dash.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.errors import FederationError
from federation.report.words import GENERATED, METHODS, points, share, size

Axes = Any
Draw = Callable[[Axes, "Theme"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The colours of one look of the page."""

    paper: str
    ink: str
    faint: str
    blue: str
    orange: str
    green: str
    grey: str


LIGHT = Theme(
    paper="#ffffff", ink="#1f2328", faint="#d9dde2", blue="#0072b2", orange="#d55e00", green="#007a5a", grey="#6b7280"
)
DARK = Theme(
    paper="#1b1f24", ink="#e6e8eb", faint="#3a4048", blue="#56b4e9", orange="#e69f00", green="#2fc39a", grey="#9aa3af"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture: its heading, what it shows in words, and PNG bytes for a light and a dark page."""

    title: str
    text: str
    light: bytes
    dark: bytes


def accuracy_by_round(results: Mapping[str, Any], *, name: str = "") -> Picture | None:
    """Draw the global model's accuracy after each round, the other methods as level lines; None without rounds."""
    rounds = results["rounds"]
    if not rounds:
        return None
    numbers = [one["round"] for one in rounds]
    values = [100 * one["accuracy"] for one in rounds]
    levels = {
        name: 100 * results["methods"][name]["accuracy"]
        for name in ("personal", "local", "most_frequent")
        if name in results["methods"]
    }

    def draw(axes: Axes, theme: Theme) -> None:
        looks = {
            "personal": (theme.green, (0, (6, 2))),
            "local": (theme.orange, (0, (2, 2))),
            "most_frequent": (theme.grey, (0, (6, 2, 1, 2))),
        }
        axes.plot(numbers, values, color=theme.blue, marker="o", markersize=4, linewidth=2)
        for name, level in levels.items():
            colour, dash = looks[name]
            axes.axhline(level, color=colour, linestyle=dash, linewidth=1.6)
        lowest, highest = min([*values, *levels.values()]), max([*values, *levels.values()])
        margin = max(2.0, 0.12 * (highest - lowest))
        axes.set_ylim(lowest - margin, highest + margin)
        ends = {"Global": (values[-1], theme.blue)}
        ends |= {_SHORT[name]: (level, looks[name][0]) for name, level in levels.items()}
        _label_ends(axes, ends)
        _whole_numbers(axes)
        axes.set_xlabel("round", color=theme.ink)
        axes.set_ylabel("accuracy on test rows, %", color=theme.ink)

    text = (
        f"The global model goes from {values[0]:.1f}% at round {numbers[0]} to {values[-1]:.1f}% at round {numbers[-1]}"
    )
    text += "".join(f"; {METHODS[name].lower()} {level:.1f}%" for name, level in levels.items()) + "."
    title = f"Accuracy by round, {name}" if name else "Accuracy by round"
    return _picture(title, text, draw, generated=results["generated"], right=0.77)


def gain_per_device(devices: Sequence[Mapping[str, Any]], *, generated: bool, name: str = "") -> Picture | None:
    """Draw each device's gain in accuracy, sorted; None if no device has test rows."""
    gains = sorted(100 * one["gain"] for one in devices if one["gain"] is not None)
    if not gains:
        return None
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    same = len(gains) - better - worse

    def draw(axes: Axes, theme: Theme) -> None:
        for sign, colour, hatch in ((1, theme.blue, ""), (-1, theme.orange, "////")):
            places = [place for place, gain in enumerate(gains) if gain * sign > 0]
            bars = axes.bar(
                places, [gains[place] for place in places], width=0.82, color=colour, hatch=hatch, linewidth=0
            )
            for bar in bars:
                bar.set_edgecolor(theme.paper)
        level = [place for place, gain in enumerate(gains) if gain == 0]
        axes.plot(level, [0] * len(level), linestyle="", marker="o", markersize=3.5, color=theme.grey, zorder=3)
        axes.axhline(0, color=theme.ink, linewidth=0.8)
        axes.set_xlim(-0.8, len(gains) - 0.2)
        largest = max(2.0, *map(abs, gains)) * 1.1
        axes.set_ylim(min(0.0, gains[0]) * 1.1 - 0.06 * largest, max(0.0, gains[-1]) * 1.1 + 0.06 * largest)
        axes.set_xticks([])
        axes.figure.subplots_adjust(bottom=0.09)  # No numbers stand below the bars.
        axes.set_xlabel(f"{len(gains)} device{'s' * (len(gains) != 1)}, sorted by gain", color=theme.ink)
        axes.set_ylabel("gain in accuracy, points", color=theme.ink)

    text = (
        f"Personalized against global on each device's test rows: {better} better (solid), {worse} worse (hatched), "
        f"{same} the same (dots); from {points(gains[0] / 100)} to {points(gains[-1] / 100)} points."
    )
    title = f"Gain per device, {name}" if name else "Gain per device"
    return _picture(title, text, draw, generated=generated)


def bytes_per_round(results: Mapping[str, Any], *, name: str = "") -> Picture | None:
    """Draw what all devices together sent and received in each round; None without rounds."""
    rounds = results["rounds"]
    if not rounds:
        return None
    numbers = [one["round"] for one in rounds]
    sent, received = [one["sent_bytes"] for one in rounds], [one["received_bytes"] for one in rounds]
    top = max(*sent, *received)
    unit, scale = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if top >= s or s == 1)

    def draw(axes: Axes, theme: Theme) -> None:
        for shift, amounts, colour, hatch, label in (
            (-0.2, sent, theme.blue, "", "sent by devices"),
            (0.2, received, theme.orange, "////", "received by devices"),
        ):
            bars = axes.bar(
                [number + shift for number in numbers],
                [amount / scale for amount in amounts],
                width=0.36,
                color=colour,
                hatch=hatch,
                linewidth=0,
                label=label,
            )
            for bar in bars:
                bar.set_edgecolor(theme.paper)
        axes.set_ylim(0, 1.22 * max(top / scale, 1e-9))
        _whole_numbers(axes)
        axes.set_xlabel("round", color=theme.ink)
        axes.set_ylabel(f"{unit}, all devices together", color=theme.ink)
        legend = axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=_SMALL, borderaxespad=0.2)
        for entry in legend.get_texts():
            entry.set_color(theme.ink)

    text = (
        f"All rounds together: {size(sum(sent))} sent by devices (solid), {size(sum(received))} received (hatched); "
        f"at most {size(max(sent))} sent in one round."
    )
    title = f"Bytes per round, {name}" if name else "Bytes per round"
    return _picture(title, text, draw, generated=results["generated"])


def gain_by_alpha(blocks: Sequence[tuple[str, Mapping[str, Any]]], *, generated: bool) -> Picture | None:
    """Draw the gain and its interval of each block of an evaluation; None unless there are several."""
    if len(blocks) < 2:
        return None
    names = [name.replace("users of the data", "users") for name, _ in blocks]
    gains = [[100 * value for value in block["gain"]["accuracy"]] for _, block in blocks]

    def draw(axes: Axes, theme: Theme) -> None:
        places = range(len(gains))
        for place, (mean, low, high) in zip(places, gains, strict=True):
            axes.plot([place, place], [low, high], color=theme.blue, linewidth=2.4, solid_capstyle="butt")
            axes.plot([place], [mean], color=theme.blue, marker="o", markersize=7, linestyle="")
            axes.annotate(
                points(mean / 100), (place, mean), (9, 0), textcoords="offset points", color=theme.ink,
                fontsize=_SMALL, va="center",
            )  # fmt: skip
        axes.axhline(0, color=theme.ink, linewidth=0.8)
        axes.set_xlim(-0.5, len(gains) - 0.3)
        axes.set_xticks(list(places), names)
        axes.set_xlabel("how alike the devices are (small α: each has few labels)", color=theme.ink)
        axes.set_ylabel("gain in accuracy, points", color=theme.ink)

    text = "Gain in points with its 95% interval over users: "
    text += "; ".join(
        f"{name} {points(mean / 100)} ({points(low / 100)} to {points(high / 100)})"
        for name, (mean, low, high) in zip(names, gains, strict=True)
    )
    return _picture("Gain by α", text + ".", draw, generated=generated)


def accuracy_by_method(block: Mapping[str, Any], *, generated: bool, name: str = "") -> Picture | None:
    """Draw each method's accuracy with its interval, the best above; None where no published method was run."""
    if "versus_best_baseline" not in block:
        return None
    found = [(method, block["methods"][method]) for method in METHODS if method in block["methods"]]
    found.sort(key=lambda one: one[1]["accuracy"])
    own = ("global", "cautious", "personal")

    def draw(axes: Axes, theme: Theme) -> None:
        for place, (method, figures) in enumerate(found):
            low, high = (100 * value for value in figures["interval"])
            colour, dash = (theme.blue, "-") if method in own else (theme.orange, (0, (3, 1)))
            axes.plot([low, high], [place, place], color=colour, linestyle=dash, linewidth=2.2)
            axes.plot([100 * figures["accuracy"]], [place], color=colour, marker="o", markersize=6, linestyle="")
        axes.set_yticks(range(len(found)), [_LABELS.get(method, METHODS[method]) for method, _ in found])
        axes.set_ylim(-0.7, len(found) - 0.3)
        axes.grid(axis="x", color=theme.faint, linewidth=0.7)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("accuracy on test rows, %, with its 95% interval over users", color=theme.ink)

    text = "Ours solid, published methods dashed: "
    text += "; ".join(f"{METHODS[method]} {share(figures['accuracy'])}" for method, figures in reversed(found)) + "."
    title = f"Accuracy by method, {name}" if name else "Accuracy by method"
    return _picture(title, text, draw, generated=generated, left=0.27)


def accuracy_by_mode(runs: Mapping[str, Mapping[str, Any]], *, generated: bool) -> Picture | None:
    """Draw what each mode's shared and personalized models reach, with intervals; None for one mode alone."""
    if len(runs) < 2:
        return None
    names = [name for name in ("local", "global", "personal") if all(name in run["methods"] for run in runs.values())]

    def draw(axes: Axes, theme: Theme) -> None:
        looks = ((theme.blue, "-", "o"), (theme.orange, (0, (3, 1)), "s"), (theme.green, (0, (1, 1)), "^"))
        for number, ((mode, run), (colour, dash, mark)) in enumerate(zip(runs.items(), looks, strict=False)):
            for place, name in enumerate(names):
                figures, height = run["methods"][name], place + 0.16 * (len(runs) - 1 - 2 * number)
                low, high = (100 * value for value in figures["interval"])
                axes.plot([low, high], [height, height], color=colour, linestyle=dash, linewidth=2.2)
                label = mode if place == 0 else None
                axes.plot([100 * figures["accuracy"]], [height], color=colour, marker=mark, linestyle="", label=label)
        axes.set_yticks(range(len(names)), [METHODS[name] for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(axis="x", color=theme.faint, linewidth=0.7)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("accuracy on test rows, %, with its 95% interval over users", color=theme.ink)
        legend = axes.legend(loc="lower right", frameon=False, fontsize=_SMALL)
        for entry in legend.get_texts():
            entry.set_color(theme.ink)

    said = []
    for mode, run in runs.items():
        reached = (f"{METHODS[name].lower()} {share(run['methods'][name]['accuracy'])}" for name in names)
        said.append(f"{mode} mode: {', '.join(reached)}")
    return _picture("Accuracy by mode", "; ".join(said) + ".", draw, generated=generated, left=0.2)


_SIZE_INCHES = (5.6, 3.3)
_DPI = 170
_TEXT = 10.5
_SMALL = 9.5
_SHORT = {"personal": "Personalized", "local": "Local only", "most_frequent": "Most frequent"}
_LABELS = {"most_frequent": "Most frequent label", "cautious": "Ours, cautious", "personal": "Ours"}


def found_by_method(methods: Mapping[str, tuple[str, float, float, float]]) -> Picture:
    """Draw the share of evidence among the first 5 of each way of searching, with its interval.

    ``methods`` gives a name to show, the share and its interval's ends.
    """
    rows = list(methods.values())[::-1]

    def draw(axes: Axes, theme: Theme) -> None:
        values = [100 * value for _, value, _, _ in rows]
        margins = [[100 * (one[1] - one[2]) for one in rows], [100 * (one[3] - one[1]) for one in rows]]
        axes.barh(range(len(rows)), values, height=0.6, color=theme.blue, linewidth=0)
        axes.errorbar(values, range(len(rows)), xerr=margins, fmt="none", ecolor=theme.ink, capsize=3)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.set_xlim(0, 100)
        axes.set_xlabel("evidence among the first 5, %", color=theme.ink)
        axes.figure.subplots_adjust(left=0.3)

    text = "; ".join(f"{name} {share(value)}" for name, value, _, _ in rows[::-1]) + "."
    return _picture("Evidence among the first 5", text, draw, generated=False)


def picture(title: str, text: str, draw: Draw) -> Picture:
    """Return a picture of real data that ``draw`` puts on the axes, for both looks of the page."""
    return _picture(title, text, draw, generated=False)


def _picture(title: str, text: str, draw: Draw, *, generated: bool, left: float = 0.11, right: float = 0.97) -> Picture:
    if generated:
        title, text = f"{title} ({GENERATED})", f"{text} Data: {GENERATED}."
    light, dark = (_png(title, draw, theme, left=left, right=right) for theme in (LIGHT, DARK))
    return Picture(title=title, text=text, light=light, dark=dark)


def _png(title: str, draw: Draw, theme: Theme, *, left: float, right: float) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FederationError("Pictures need matplotlib: pip install 'tacit[federation]'.") from None

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, facecolor=theme.paper)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.paper)
    figure.subplots_adjust(left=left, right=right, top=0.88, bottom=0.16)
    figure.suptitle(title, x=0.02, y=0.97, ha="left", va="top", fontsize=_TEXT, color=theme.ink, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(colors=theme.ink, labelsize=_SMALL, length=0)
    axes.grid(axis="y", color=theme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    draw(axes, theme)
    axes.xaxis.label.set_fontsize(_SMALL)
    axes.yaxis.label.set_fontsize(_SMALL)
    buffer = io.BytesIO()
    # Without the release's name in it, the same results give the same bytes.
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write each line's name at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.115 * (high - low)  # Two lines of small text, as a part of the axis's height.
    place = -float("inf")
    placed = []
    for name, (value, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        place = max(value, place + gap)
        placed.append([name, value, place, colour])
    overflow = max(0.0, placed[-1][2] - high)
    ceiling = float("inf")
    for entry in reversed(placed):  # What was pushed over the top comes down, and pushes down what is below it.
        entry[2] = min(entry[2], placed[-1][2] - overflow if ceiling == float("inf") else ceiling)
        ceiling = entry[2] - gap
    for name, value, where, colour in placed:
        axes.annotate(
            f"{name}\n{share(value / 100)}", (1.02, where), xycoords=("axes fraction", "data"), color=colour,
            fontsize=8.5, va="center", linespacing=1.0, annotation_clip=False,
        )  # fmt: skip
