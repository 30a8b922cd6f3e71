"""Known weaknesses of the pinned versions: `python -m tests.dependency_audit`, a part of `make lint`.

pip-audit asks a public advisory service about every pin. A weakness fails the audit. On a machine from which no service
can be reached there is nothing to fail on, and the audit says that it has not taken place. What one service doesn't
know of a pin the next one is asked about.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

__all__ = ["ACCEPTED", "Audit", "audit_pins", "main"]

ACCEPTED: dict[str, str] = {}
"""Weaknesses that don't touch us, by their id, each with the reason; they are named and don't fail the audit."""

_PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
_TIMEOUT_S = 10
"""Of one request."""
_BLOCK = 25
"""Pins that are asked about together after a service has broken off, so that it can't take all findings with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A weakness of a pinned version."""

    pin: str
    weakness: str
    aliases: tuple[str, ...]
    fixed_in: tuple[str, ...]
    description: str

    def __str__(self) -> str:
        names = ", ".join([self.weakness, *self.aliases])
        remedy = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version is known"
        return f"{self.pin}: {names}: {self.description[:200]} ({remedy})"


@dataclass(slots=True)
class Audit:
    """What was found out."""

    audited: list[str] = field(default_factory=list[str])
    """Pins that a service knew."""
    unaudited: list[str] = field(default_factory=list[str])
    findings: list[Finding] = field(default_factory=list[Finding])
    troubles: list[str] = field(default_factory=list[str])
    """Why services couldn't be asked."""

    def open_findings(self) -> list[Finding]:
        """Those that nobody has accepted."""
        return [found for found in self.findings if not {found.weakness, *found.aliases} & ACCEPTED.keys()]


def audit_pins(pins: Sequence[str], services: Sequence[Sequence[str]]) -> Audit:
    """Asks the services one after the other, each about what those before it didn't know.

    Args:
        pins: `name==version`.
        services: options that choose a service of pip-audit.
    """
    total = Audit(unaudited=list(pins))
    for service in services:
        if not total.unaudited:
            break
        asked = _ask_persistently(total.unaudited, service)
        total.audited += asked.audited
        total.findings += asked.findings
        total.troubles += asked.troubles
        total.unaudited = asked.unaudited
    return total


def _ask_persistently(pins: Sequence[str], service: Sequence[str]) -> Audit:
    """One question about all pins; if the service breaks off, one for each block of them while it answers."""
    whole = _ask(pins, service)
    if not whole.troubles or len(pins) <= _BLOCK:
        return whole
    found = Audit()
    for start in range(0, len(pins), _BLOCK):
        block = _ask(pins[start : start + _BLOCK], service)
        found.audited += block.audited
        found.unaudited += block.unaudited
        found.findings += block.findings
        found.troubles += block.troubles
        if block.troubles and not found.audited:
            found.unaudited += pins[start + _BLOCK :]
            break
    return found


def _ask(pins: Sequence[str], service: Sequence[str]) -> Audit:
    """One call of pip-audit."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "pins.txt"
        requirements.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
        options = ["-r", str(requirements), "--no-deps", "--disable-pip", "--format", "json", "--desc", "on"]
        options += ["--aliases", "on", "--progress-spinner", "off", "--timeout", str(_TIMEOUT_S)]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options, *service],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    try:
        rows = cast("list[dict[str, Any]]", json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return Audit(unaudited=list(pins), troubles=[f"{' '.join(service)}: {last[:300]}"])
    found = Audit()
    for row in rows:
        if "skip_reason" in row:
            continue
        pin = f"{row['name']}=={row['version']}"
        found.audited.append(pin)
        found.findings += [_finding(pin, weakness) for weakness in row["vulns"]]
    known = {pin.partition("==")[0] for pin in found.audited}
    found.unaudited = [pin for pin in pins if _canonical(pin.partition("==")[0]) not in known]
    return found


def _finding(pin: str, weakness: dict[str, Any]) -> Finding:
    return Finding(
        pin,
        weakness["id"],
        tuple(weakness.get("aliases", ())),
        tuple(weakness.get("fix_versions", ())),
        " ".join(str(weakness.get("description", "")).split()),
    )


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def read_pins(path: Path) -> list[str]:
    """The pins of a constraint file, without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits and says what was found.

    Returns:
        1 if a pinned version has a known weakness that isn't accepted, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pins", type=Path, default=_PINS, metavar="FILE", help="versions; constraints.txt by default")
    parser.add_argument("--osv-url", metavar="URL", help="ask only this service, which speaks OSV")
    options = parser.parse_args(arguments)
    services = [["--vulnerability-service", "pypi"], ["--vulnerability-service", "osv"]]
    if options.osv_url:
        services = [["--vulnerability-service", "osv", "--osv-url", options.osv_url]]
    pins = read_pins(options.pins)
    found = audit_pins(pins, services)
    lines = [f"weakness: {finding}" for finding in found.open_findings()]
    for finding in found.findings:
        for weakness in {finding.weakness, *finding.aliases} & ACCEPTED.keys():
            lines.append(f"accepted: {finding}: {ACCEPTED[weakness]}")
    if not found.audited:
        why = f" ({'; '.join(found.troubles)})" if found.troubles else " (none knows any of the pins)"
        lines.append(f"not audited: no advisory service reachable{why}")
    else:
        lines.append(f"audited: {len(found.audited)} of {len(pins)} pinned versions")
        if found.unaudited:
            lines.append(f"not audited: {', '.join(found.unaudited)}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if found.open_findings() else 0


if __name__ == "__main__":
    sys.exit(main())
