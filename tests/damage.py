"""Damage to records of sources, class by class, and traps for a reader that follows where a record leads."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

__all__ = ["LONG_NUMBER", "Damage", "Link", "Payload", "Traps", "damaged", "lay_traps"]

LONG_NUMBER = "@number of 5000 digits@"
"""Stands for a number that `json.dumps` can't write; whoever writes JSON replaces it."""
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")
_CONTROL = ("\x00", "\x1b[2J", "\x7f", "\r", "\n\n", "\u202e", "\ud800", "\ufeff", "\x85", "\u2028", "\t" * 40)
_OTHER_TYPES: tuple[object, ...] = (
    None, True, 7, -1, 1.5, "", "word", "12", [], [[]], [None], ["word"], {}, {"word": 1}, [{}], b"bytes",
)  # fmt: skip
_HUGE: tuple[object, ...] = (
    2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 1e9, 1e308, -1e308, 5e-324, "9" * 400, LONG_NUMBER,
)  # fmt: skip
_NO_NUMBER: tuple[object, ...] = (float("nan"), float("inf"), float("-inf"), "NaN", "-Infinity")
_CODE = ".__class__.__base__.__subclasses__()"


class Damage(StrEnum):
    """What is wrong with a record."""

    TRUNCATED = "truncated"
    WRONG_TYPE = "wrong type"
    HUGE_NUMBER = "huge number"
    NOT_A_NUMBER = "not a number"
    CONTROL_CHARACTER = "control character"
    PATH_TRAVERSAL = "path traversal"
    SYMLINK = "symlink out of the root"
    BOMB = "decompression bomb"
    PICKLE = "pickle with code"


@dataclass(frozen=True, slots=True)
class Link:
    """In the place of a file's bytes: a link, symbolic or hard."""

    target: str
    is_hard: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """Unpickled by anything but a safe reader, it makes a file."""

    marker: Path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@dataclass(frozen=True, slots=True)
class Traps:
    """What lies in a source's folders for a reader that is led astray, and beside the source for one that gets out."""

    outside: Path
    """A folder beside the source's, of which nothing may be opened."""
    secret: bytes
    """What its files hold: a whole picture."""
    marker: Path
    """Is there as soon as a pickle has run."""


def lay_traps(root: Path, outside: Path) -> Traps:
    """Puts links, bombs and pickles into every folder of a source, and what the links lead to beside it."""
    outside.mkdir(parents=True)
    secret = io.BytesIO()
    Image.new("RGB", (32, 24), (1, 2, 3)).save(secret, "PNG")
    for name in ("canary.png", "canary.jpg", "canary.json", "canary.txt"):
        (outside / name).write_bytes(secret.getvalue())
    traps = Traps(outside, secret.getvalue(), root.parent / "a pickle ran")
    for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        for name in ("link.png", "link.jpg"):
            (folder / name).symlink_to(outside / f"canary{name[-4:]}")
        (folder / "away").symlink_to(outside)
        for name, data in _BOMBS.items():
            (folder / name).write_bytes(data)
        (folder / "code.png").write_bytes(pickle.dumps(Payload(traps.marker)))
    return traps


def damaged(record: object, damage: Damage, draw: random.Random, traps: Traps) -> object:
    """The record with one place in it damaged.

    Args:
        record: mappings, lists, numbers, texts and bytes. In a mapping, `name` and whatever ends like a picture's name
            is taken for the name of a file.
        damage: of which class.
        draw: chooses place and value.
        traps: where names, links and pickles lead.
    """
    places = [(path, value) for path, value in _places(record, ()) if _suits(damage, path, value)]
    if not places:
        places = list(_places(record, ()))
    named = [place for place in places if _is_name(*place)]
    if damage in (Damage.PATH_TRAVERSAL, Damage.SYMLINK, Damage.BOMB, Damage.PICKLE) and named and draw.random() < 0.7:
        places = named
    path, value = draw.choice(places)
    return _replaced(record, path, _damaged_value(path, value, damage, draw, traps))


def _places(value: object, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], object]]:
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _places(item, (*path, place))


def _replaced(value: object, path: tuple[object, ...], by: object) -> object:
    if not path:
        return by
    key, *rest = path
    if isinstance(value, dict):
        return {name: _replaced(item, tuple(rest), by) if name == key else item for name, item in value.items()}
    assert isinstance(value, list)
    return [_replaced(item, tuple(rest), by) if place == key else item for place, item in enumerate(value)]


def _is_name(path: tuple[object, ...], value: object) -> bool:
    return isinstance(value, str) and (path[-1:] == ("name",) or value.lower().endswith(_PICTURES))


def _suits(damage: Damage, path: tuple[object, ...], value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match damage:
        case Damage.TRUNCATED:
            return isinstance(value, str | bytes | list | dict) and bool(value)
        case Damage.WRONG_TYPE:
            return True
        case Damage.HUGE_NUMBER | Damage.NOT_A_NUMBER:
            return is_number or isinstance(value, bytes)
        case Damage.CONTROL_CHARACTER | Damage.PATH_TRAVERSAL | Damage.PICKLE:
            return isinstance(value, str | bytes)
        case Damage.SYMLINK:
            return _is_name(path, value) or isinstance(value, bytes)
        case Damage.BOMB:
            return bool(path) and isinstance(value, str | bytes | list | dict)


def _damaged_value(
    path: tuple[object, ...], value: object, damage: Damage, draw: random.Random, traps: Traps
) -> object:
    if isinstance(value, bytes):
        return _damaged_bytes(value, damage, draw, traps)
    match damage:
        case Damage.TRUNCATED:
            return _truncated(value, draw)
        case Damage.WRONG_TYPE:
            return draw.choice(_OTHER_TYPES)
        case Damage.HUGE_NUMBER:
            return draw.choice(_HUGE)
        case Damage.NOT_A_NUMBER:
            return draw.choice(_NO_NUMBER)
        case Damage.CONTROL_CHARACTER:
            text = value if isinstance(value, str) else ""
            place = draw.randint(0, len(text))
            return text[:place] + draw.choice(_CONTROL) + text[place:]
        case Damage.PATH_TRAVERSAL:
            return _name_outside(str(value) if path[-1:] == ("name",) else "", draw, traps)
        case Damage.SYMLINK if path[-1:] == ("name",):
            return f"away/{value}"
        case Damage.SYMLINK:
            return draw.choice(["link.png", "link.jpg", "away/canary.png", "away/../link.png", "away/away/canary.png"])
        case Damage.BOMB:
            if path[-1:] == ("name",):
                return "/".join(["a"] * 200) + str(value)
            return draw.choice(sorted(_BOMBS)) if _is_name(path, value) else draw.choice(_LARGE)(draw)
        case Damage.PICKLE:
            if path[-1:] == ("name",):
                return f"{value}.pkl"
            if _is_name(path, value):
                return "code.png"
            return draw.choice([f"cposix\nsystem\n(S'touch {traps.marker}'\ntR.", f"__import__('os'){_CODE}"])


def _truncated(value: object, draw: random.Random) -> object:
    if isinstance(value, dict):
        return dict(list(value.items())[: draw.randrange(len(value) or 1)])
    if isinstance(value, list | str):
        return value[: draw.randrange(len(value) or 1)]
    return None


def _name_outside(name: str, draw: random.Random, traps: Traps) -> str:
    """A name by which a careless reader gets at the canary; of a record that is a file itself, its own name led out."""
    ups = "../" * draw.randint(1, 7)
    if name:
        return draw.choice([ups, "/", f"{traps.outside}/", "a/../../", ".\\..\\", "C:\\", "~/", "file:///"]) + name
    canary = traps.outside / "canary.png"
    below = f"{traps.outside.name}/canary.png"
    return draw.choice(
        [f"{ups}{below}", str(canary), f"file://{canary}", f"images/{ups}{below}", f"//{canary}", f"%2e%2e/{below}",
         f"{ups}{below}".replace("/", "\\"), f"{canary}\x00.png", f"./{ups}{below}", f"~/{below}"]
    )  # fmt: skip


def _damaged_bytes(value: bytes, damage: Damage, draw: random.Random, traps: Traps) -> object:
    is_text = not value.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM"))
    match damage:
        case Damage.TRUNCATED:
            return value[: draw.randrange(len(value) or 1)]
        case Damage.WRONG_TYPE:
            return draw.choice([b"", b"<html>404</html>", b"{}", b"GIF89a", b"%PDF-1.7", b"\xff\xd8\xff", bytes(99)])
        case Damage.HUGE_NUMBER:
            return b"9" * 5_000 if is_text else _png(2**31 - 1, draw.choice([1, 24, 2**31 - 1]), b"")
        case Damage.NOT_A_NUMBER:
            return b"NaN" if is_text else _NO_RESOLUTION
        case Damage.CONTROL_CHARACTER:
            place = draw.randint(0, len(value))
            return value[:place] + draw.choice(_CONTROL).encode(errors="surrogatepass") + value[place:]
        case Damage.PATH_TRAVERSAL | Damage.SYMLINK:
            ups = "../" * draw.randint(1, 7)
            target = draw.choice([str(traps.outside / "canary.png"), f"{ups}{traps.outside.name}/canary.png"])
            return Link(target, is_hard=draw.random() < 0.3)
        case Damage.BOMB:
            return b"A" * 2**20 if is_text else draw.choice(sorted(_BOMBS.values()))
        case Damage.PICKLE:
            return pickle.dumps(Payload(traps.marker), protocol=draw.choice([0, 2, 5]))


def _nested(draw: random.Random) -> object:
    value: object = 0
    for _ in range(draw.randint(50, 150)):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


_LARGE: tuple[Callable[[random.Random], object], ...] = (
    _nested,
    lambda draw: "word " * draw.choice([100, 20_000]),
    lambda draw: [[0.0, 1.0] * draw.choice([50, 5_000])],
    lambda draw: [[1e9, -1e9, 1e9, 1e9, -1e9, 1e9]] * 40,
    lambda draw: [[float(x) for x in range(6)]] * 500,
    lambda draw: {"size": [10**9, 10**9], "counts": [0]},
    lambda draw: {"size": [24, 32], "counts": [2**40]},
    lambda draw: {"size": [2**16, 2**16], "counts": [0, 2**32]},
    lambda draw: {"size": [24, 32], "counts": "o" * 5_000},
    lambda draw: {"size": [24, 32], "counts": "PPYo`" * 1_000},
    lambda draw: {"size": [24, 32], "counts": [1] * 20_000},
    lambda draw: "<region1>" * 2_000,
    lambda draw: "[SEG]" * 2_000,
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG of one grey channel, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(before) + end


def _gif_bomb() -> bytes:
    whole = io.BytesIO()
    Image.new("P", (1, 1)).save(whole, "GIF")
    data = bytearray(whole.getvalue())
    data[6:10] = b"\xff\xff\xff\xff"
    return bytes(data)


def _without_resolution() -> bytes:
    """A good picture whose EXIF holds 0/0 as its resolution."""
    picture, data = Image.new("RGB", (32, 24)), io.BytesIO()
    exif = picture.getexif()
    exif[0x011A] = IFDRational(0, 0)
    picture.save(data, "JPEG", exif=exif)
    return data.getvalue()


_NO_RESOLUTION = _without_resolution()
_TEXT_BOMB = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9))
_BOMBS = {
    "rows.png": _png(32, 24, bytes(2**27)),  # 64 KiB that unpack to 128 MiB
    "wide.png": _png(60_000, 60_000, bytes(2**20)),
    "large.png": _png(8_000, 8_000, bytes(2**20)),
    "text.png": _png(32, 24, bytes(33 * 24), _TEXT_BOMB),
    "wide.gif": _gif_bomb(),
}
"""Pictures by name that are small as files, and whose reader must not unpack all that they claim or hold."""
