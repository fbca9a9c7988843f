"""What a load test found: the table or one JSON object on stdout, and a page of HTML."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Final

from infra.demo_screen import PipelineResult
from infra.load.core.histogram import Percentiles
from infra.load.core.meter import StepFigures

_OF_LOGS: Final = frozenset({"lines", "rejected", "bots", "assets and the like"})
_WIDTH: Final = 720
_HEIGHT: Final = 240
_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.offered { fill: #8888; } .taken { fill: #2a7ae2; } .p50 { stroke: #2a9d5c; } .p99 { stroke: #d1495b; }
.line { fill: none; stroke-width: 2; }
"""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A load test: what the pipeline counted, and how long events took from when they were due."""

    pipeline: PipelineResult
    offered: int  # events that were due
    steps: tuple[StepFigures, ...]
    acknowledged: Percentiles | None
    delivered: Percentiles | None
    caught_up_seconds: float  # from the end of the load until the consumer had read everything
    shards: int
    faults: str

    @property
    def not_accepted(self) -> int:
        """Events that were due and not even taken by the producer before the end: its buffer was full."""
        return self.offered - self.pipeline.events

    def as_mapping(self) -> dict[str, Any]:
        """Return the result under the keys that `--output json` promises."""
        return {
            **self.pipeline.as_mapping(),
            "offered": self.offered,
            "not_accepted": self.not_accepted,
            "shards": self.shards,
            "faults": self.faults,
            "caught_up_seconds": round(self.caught_up_seconds, 1),
            "latency_seconds": {
                "acknowledged": _mapping_of(self.acknowledged),
                "delivered": _mapping_of(self.delivered),
            },
            "steps": [
                {
                    "start_seconds": each.step.start,
                    "end_seconds": each.step.end,
                    "offered_per_second": round(each.events / (each.step.end - each.step.start), 1),
                    "acknowledged_per_second": round(each.acknowledged_per_second, 1),
                    "acknowledged": _mapping_of(each.acknowledged),
                    "delivered": _mapping_of(each.delivered),
                }
                for each in self.steps
            ],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table of the steps, its heading first."""
        heading = ("offered/s", "acknowledged/s", "p50", "p99", "max", "to the end: p50", "p99")
        return [heading, *(_row_of(each) for each in self.steps)]


def _mapping_of(found: Percentiles | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)


def _row_of(each: StepFigures) -> tuple[str, ...]:
    taken, delivered = each.acknowledged, each.delivered
    rate = each.events / (each.step.end - each.step.start)
    return (
        f"{rate:,.0f}",
        f"{each.acknowledged_per_second:,.0f}",
        *((milliseconds(taken.p50), milliseconds(taken.p99), milliseconds(taken.max)) if taken else ("-",) * 3),
        *((milliseconds(delivered.p50), milliseconds(delivered.p99)) if delivered else ("-",) * 2),
    )


def milliseconds(seconds: float) -> str:
    """Return a latency as people read it."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def text_of(result: LoadResult) -> str:
    """Return the tables for a terminal."""
    rows = result.rows()
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    counts = [f"{name:<24}{figure:>14}" for name, figure in _counts_of(result)]
    return "\n".join([*lines, "", *counts])


def _counts_of(result: LoadResult) -> list[tuple[str, str]]:
    return [
        ("offered", f"{result.offered:,}"),
        ("not accepted", f"{result.not_accepted:,}"),
        *(row for row in result.pipeline.rows() if row[0].strip() not in _OF_LOGS),
        ("caught up after", f"{result.caught_up_seconds:.1f} s"),
    ]


def page_of(result: LoadResult) -> str:
    """Return a page that needs nothing else: no script, no font, no address."""
    heading, *rows = result.rows()
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    counts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _counts_of(result))
    about = f"{result.shards} shards, faults: {escape(result.faults or 'none')}"
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"/><title>headrace: load test</title><style>{_STYLE}</style></head>
<body>
<h1>Load test: {escape(result.pipeline.verdict)}</h1>
<p>{about}. Latencies count from when an event was due, to the acknowledgment by the source stream, and to the end:
the arrival in a destination stream.</p>
<h2>Events per second</h2>
<p>Offered (grey) and acknowledged (blue), by step.</p>
{_bars(result.steps)}
<h2>Latency to the acknowledgment</h2>
<p>Median (green) and 99th percentile (red), by step.</p>
{_lines(result.steps)}
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
<h2>Audit</h2>
<table><tbody>{counts}</tbody></table>
</body>
</html>
"""


def _bars(steps: tuple[StepFigures, ...]) -> str:
    offered = [each.events / (each.step.end - each.step.start) for each in steps]
    taken = [each.acknowledged_per_second for each in steps]
    top = max(*offered, *taken, 1.0)
    width = _WIDTH / len(steps)
    parts = [f'<text x="0" y="12">{top:,.0f}/s</text>']
    for index in range(len(steps)):
        for kind, value, at in (("offered", offered[index], 0.1), ("taken", taken[index], 0.5)):
            height = value / top * (_HEIGHT - 20)
            parts.append(
                f'<rect class="{kind}" x="{(index + at) * width:.1f}" y="{_HEIGHT - height:.1f}"'
                f' width="{width * 0.38:.1f}" height="{height:.1f}"/>'
            )
    return _svg(parts)


def _lines(steps: tuple[StepFigures, ...]) -> str:
    top = max((each.acknowledged.p99 for each in steps if each.acknowledged), default=0.0) or 1.0
    width = _WIDTH / len(steps)
    parts = [f'<text x="0" y="12">{escape(milliseconds(top))}</text>']
    for name in ("p50", "p99"):
        places = " ".join(
            f"{(index + 0.5) * width:.1f},{_HEIGHT - getattr(each.acknowledged, name) / top * (_HEIGHT - 20):.1f}"
            for index, each in enumerate(steps)
            if each.acknowledged
        )
        parts.append(f'<polyline class="line {name}" points="{places}"/>')
    return _svg(parts)


def _svg(parts: list[str]) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'
