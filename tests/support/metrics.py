"""Metrics of a process of ours, as it shows them to Prometheus."""

import asyncio
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Metrics:
    """All samples at one time."""

    samples: Sequence[tuple[str, dict[str, str], float]]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels. 0: there is none."""
        names = {name, f"{name}_total"}  # the parser puts `_total` behind every counter, Triton's too
        return sum(value for each, has, value in self.samples if each in names and labels.items() <= has.items())

    def within(self, name: str, bound: float, before: "Metrics") -> float:
        """Share of a histogram's observations since `before` that were within one of its bounds."""
        count = self.sum(f"{name}_count") - before.sum(f"{name}_count")
        fast = sum(
            sign * value
            for metrics, sign in ((self, 1), (before, -1))
            for each, has, value in metrics.samples
            if each == f"{name}_bucket" and float(has["le"]) == bound
        )
        assert count > 0, f"nothing was observed in {name}"
        return fast / count


async def metrics_at(address: str) -> Metrics:
    """The metrics shown at `host:port`."""
    families = text_string_to_metric_families(await asyncio.to_thread(_page, f"http://{address}/metrics"))
    return Metrics([(sample.name, sample.labels, sample.value) for family in families for sample in family.samples])


async def sum_at(address: str, name: str) -> float:
    """The sum of the samples of one name. All of a page, shown and parsed, takes the CPU of tens of calls."""
    page = await asyncio.to_thread(_page, f"http://{address}/metrics?name[]={name}")
    samples = (line.split() for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(words[-1]) for words in samples)


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return str(reply.read().decode())
