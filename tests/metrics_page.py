"""What the nodes of the running Ray session show to Prometheus."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import ray

from jobs.observing import THIS_PROCESS

__all__ = ["Shown", "scraped", "settled", "wait_for_figures"]

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and labels, those of Ray's own left out; summed up over processes."""

_TIMEOUT_S = 60
_QUIET_S = 3
"""Three times the interval at which the processes of the tests' sessions hand in their figures."""


def scraped() -> Shown:
    """Our figures as the pages of all nodes show them now."""
    found: Shown = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        for line in text.splitlines():
            match = re.fullmatch(r"(ray_sailloft_\w+)\{(.*)\} (\S+)", line)
            if match:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                ours = {name: value for name, value in labels.items() if name.islower() and "otel" not in name}
                key = match[1], tuple(sorted(ours.items()))
                found[key] = found.get(key, 0.0) + float(match[3])
    return found


def settled() -> Shown:
    """The page once nothing comes any more from what ran before: unchanged for a while."""
    THIS_PROCESS.flush()
    deadline_s = time.monotonic() + _TIMEOUT_S
    shown, since_s = scraped(), time.monotonic()
    while time.monotonic() - since_s < _QUIET_S:
        assert time.monotonic() < deadline_s, "processes of earlier tests still count something"
        time.sleep(0.5)
        if (now := scraped()) != shown:
            shown, since_s = now, time.monotonic()
    return shown


def wait_for_figures(complete: Callable[[Shown], bool]) -> Shown:
    """The page once it is complete, or as it is after a minute."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        shown = scraped()
        if complete(shown) or time.monotonic() > deadline_s:
            return shown
        time.sleep(1)
