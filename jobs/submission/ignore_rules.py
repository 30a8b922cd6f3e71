"""Rules on paths as `.gitignore` and `.rayignore` have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["IgnoreRule", "decide", "parse_rules"]


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """One line of an ignore file."""

    text: str
    """As it is written."""
    keeps: bool
    """Begins with `!`: takes back what an earlier rule left out."""
    folders_only: bool
    """Ends with `/`."""
    pattern: re.Pattern[str]
    """Of whole paths below the folder, with `/` between their parts."""

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether the rule is about this path."""
        return (is_folder or not self.folders_only) and self.pattern.fullmatch(path) is not None


def parse_rules(lines: Iterable[str]) -> list[IgnoreRule]:
    """Rules of an ignore file, in order; comments and empty lines are none.

    >>> decide(parse_rules(["*.log", "!keep.log"]), "a/keep.log", is_folder=False) is None
    True
    """
    rules: list[IgnoreRule] = []
    for line in lines:
        text = _without_trailing_spaces(line.rstrip("\r\n"))
        if not text or text.startswith("#"):
            continue
        keeps = text.startswith("!")
        body = text[1:] if keeps else text
        folders_only = body.endswith("/")
        pattern = _pattern(body.rstrip("/") if folders_only else body)
        if pattern is not None:
            rules.append(IgnoreRule(text, keeps, folders_only, pattern))
    return rules


def decide(rules: Sequence[IgnoreRule], path: str, is_folder: bool) -> IgnoreRule | None:
    """The rule that leaves a path out; None: it stays. The last rule that matches decides.

    Args:
        rules: in order.
        path: relative, with `/` between parts; its parents are taken to have stayed.
        is_folder: whether it is a folder.
    """
    for rule in reversed(rules):
        if rule.matches(path, is_folder):
            return None if rule.keeps else rule
    return None


def _without_trailing_spaces(text: str) -> str:
    """Trailing spaces don't count unless a backslash stands before them."""
    stripped = text.rstrip(" ")
    num_backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if num_backslashes % 2 and len(stripped) < len(text) else stripped


def _pattern(body: str) -> re.Pattern[str] | None:
    """A rule's glob as a regular expression; None where it matches nothing."""
    anchored = "/" in body
    parts = body.lstrip("/").split("/")
    if not body.strip("/"):
        return None
    # Without a slash inside, a rule is about the name alone, at any depth.
    expression = "" if anchored else "(?:.*/)?"
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            expression += ".+" if last else "(?:.*/)?"
            continue
        glob = _glob(part)
        if glob is None:
            return None
        expression += glob + ("" if last else "/")
    return re.compile(expression, re.DOTALL)


def _glob(part: str) -> str | None:
    """One part of a path: `*`, `?`, `[...]` and backslashes; None: a bracket isn't closed, so nothing matches."""
    out, index = "", 0
    while index < len(part):
        sign = part[index]
        index += 1
        if sign == "*":
            out += "[^/]*"
        elif sign == "?":
            out += "[^/]"
        elif sign == "\\" and index < len(part):
            out += re.escape(part[index])
            index += 1
        elif sign == "[":
            end = _class_end(part, index)
            if end is None:
                return None
            inside = part[index:end]
            negated = inside.startswith(("!", "^"))
            escaped = re.sub(r"([\[\]&~|])", r"\\\1", inside[1:] if negated else inside)
            out += f"(?!/)[{'^' if negated else ''}{escaped}]"
            index = end + 1
        else:
            out += re.escape(sign)
    return out


def _class_end(part: str, start: int) -> int | None:
    """Position of the bracket that closes a class; a bracket right behind the opening belongs to it."""
    first = start + 1 if part[start : start + 1] in {"!", "^"} else start
    end = part.find("]", first + 1)
    return None if end < 0 else end
