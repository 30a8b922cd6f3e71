"""Takes secrets out of texts before anybody sees them: logs, errors, records of runs.

What counts as a secret: values of variables whose names tell one, users and passwords in URLs, signatures of signed
URLs, authorisation headers, and what is known by its looks. A secret that has none of these marks is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote

from storage.keys import Json

__all__ = ["SECRET_LOOKS", "is_secret_name", "redact", "redact_json", "secret_in"]

_MIN_VALUE_CHARACTERS = 6
"""Shorter values of variables stand in many an innocent word."""

_NAME = re.compile(
    r"(?:^|_)(?:PASS(?:WORD|WD|PHRASE)?|SECRETS?|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_KEY(?:_ID)?|"
    r"(?:PRIVATE|SECRET|ACCOUNT|AUTH|ENCRYPTION|LICENSE|SIGNING)_KEY|CONNECTION_STRING|SAS)(?:_|$)",
    re.IGNORECASE,
)
_PLACE = re.compile(r"_(?:PATH|FILE|DIR)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
"""Where a secret lies, which is none."""

_USERINFO = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/?#\"'<>]+@", re.IGNORECASE)
_SSH_USER = re.compile(r"\b(?:[a-z]+\+)?ssh://[^\s/?#\"'<>:@]+@", re.IGNORECASE)
"""The account of a server that asks for a key; no secret."""
_PARAMETER = re.compile(
    r"([?&;](?:X-(?:Amz|Goog|Oss)-(?:Signature|Credential|Security-Token)|Signature|sig|AWSAccessKeyId|GoogleAccessId|"
    r"access_token|id_token|refresh_token|auth|token|api[_-]?key|password|secret)=)[^&;\s\"'<>]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SIGNED = re.compile(r"\b(Credential|Signature)=[^,\s\"']+")
_ASSIGNMENT = re.compile(r"\b([A-Z][A-Z0-9_]{3,})([\"']?\s*[=:]\s*[\"']?)([^\s\"',;&<>]+)")

SECRET_LOOKS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(
        r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:.*?-----END (?:[A-Z]+ )*PRIVATE KEY-----)?", re.DOTALL
    ),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}\b"),
    "a Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
}
"""Secrets that are known by their looks, wherever they stand."""


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a variable or a field of this name holds a secret, as far as names tell.

    >>> [is_secret_name(name) for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "AWS_REGION", "max_new_tokens")]
    [True, True, False, False]
    """
    return _NAME.search(name) is not None and not _PLACE.search(name)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text without the secrets in it; each is replaced by what it was, in angle brackets.

    Args:
        text: any.
        environment: whose values are secrets where the name says so; None: of this process, as it is now.

    >>> redact("get https://ada:pw@host/x?sig=abc failed: hunter22", {"DB_PASSWORD": "hunter22"})
    'get https://<userinfo>@host/x?sig=<signature> failed: <DB_PASSWORD>'
    """
    known = os.environ if environment is None else environment
    secrets = [(value, name) for name, value in known.items() if is_secret_name(name)]
    for value, name in sorted(secrets, key=lambda pair: -len(pair[0])):
        if len(value) >= _MIN_VALUE_CHARACTERS:
            for form in (value, quote(value, safe="")):
                text = text.replace(form, f"<{name}>")
    for what, looks in SECRET_LOOKS.items():
        text = looks.sub(f"<{what}>", text)
    text = _USERINFO.sub(r"\1<userinfo>@", text)
    text = _PARAMETER.sub(r"\1<signature>", text)
    text = _HEADER.sub(r"\1\2<credentials>", text)
    if "AWS4-HMAC" in text:
        text = _SIGNED.sub(r"\1=<signature>", text)
    return _ASSIGNMENT.sub(_without_value, text)


def secret_in(text: str) -> str | None:
    """What kind of secret stands in a text of settings; None: none that is known by its looks or by its place in a URL.

    >>> secret_in("s3://key:secret@bucket/prefix"), secret_in("git+ssh://git@host/code"), secret_in("s3://bucket/prefix")
    ('a user or password in a URL', None, None)
    """
    if _USERINFO.search(_SSH_USER.sub("", text)):
        return "a user or password in a URL"
    if _PARAMETER.search(text):
        return "a signature or token in a URL"
    return next((kind for kind, looks in SECRET_LOOKS.items() if looks.search(text)), None)


def redact_json(value: Json, environment: Mapping[str, str] | None = None) -> Json:
    """Plain data without the secrets in its texts; what a field holds whose name tells a secret goes as a whole."""
    known = os.environ if environment is None else environment
    if isinstance(value, str):
        return redact(value, known)
    if isinstance(value, Mapping):
        return {
            name: f"<{name}>"
            if isinstance(item, str) and item and is_secret_name(name)
            else redact_json(item, environment)
            for name, item in value.items()
        }
    if isinstance(value, Sequence):
        return [redact_json(item, known) for item in value]
    return value


def _without_value(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    return f"{name}{between}<{name}>" if is_secret_name(name) and not value.startswith("<") else match[0]
