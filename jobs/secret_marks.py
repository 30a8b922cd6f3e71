"""What is kept from travelling: files that hold secrets by their names, or by what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from storage.errors import UsageError
from storage.redaction import SECRET_LOOKS, is_secret_name, secret_in

__all__ = ["SECRET_FILES", "find_secret", "refuse_secret_names", "refuse_secrets"]

SECRET_FILES = (
    ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pypirc", ".npmrc", ".pgpass", ".git-credentials",
    ".aws/", ".ssh/", ".gnupg/", ".kube/", ".docker/", ".azure/", ".gcloud/", ".config/", ".huggingface/",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.token",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "kubeconfig*", "credentials", "credentials.*",
    "*credentials*.json", "client_secret*.json", "service[-_]account*.json", "secret", "secrets", "secret.*",
    "secrets.*", "token", "token.txt", "htpasswd", ".htpasswd",
)  # fmt: skip
"""Files and folders that hold credentials by their name, as rules of `.gitignore`."""

_AWS_SECRET = re.compile(r"(?i)aws_secret_access_key[\"']?\s*[=:]\s*[\"']?[a-z0-9/+]{40}(?![a-z0-9/+])")

_URL_PASSWORD = re.compile(
    r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@?#\"'`<>{}$%*]+:"
    r"(?!(?:pass(?:word|wd)?|pwd?|secret|token|x+|\.+)@)[^\s/@?#\"'`<>{}$*]+@[a-z0-9\[]"
)
"""A user with a password that is neither a variable nor an example's."""


def refuse_secrets(tree: object, where: str, remedy: str) -> None:
    """Makes sure that no secret stands in settings: they are stored, shown and sent as they are.

    Args:
        tree: mappings, lists and plain values.
        where: what opens the message.
        remedy: what closes it.

    Raises:
        UsageError: the message names the fields and what kind of secret stands there, not the secret.
    """
    found = [f"{place}: expected no secret, got {kind}" for place, kind in _secrets(tree, ())]
    if found:
        raise UsageError(f"{where}: {'; '.join(found)}; {remedy}")


def _secrets(node: object, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        if kind := secret_in(node):
            yield ".".join(place) or "it", kind
    elif isinstance(node, Mapping):
        for name, value in cast("Mapping[object, object]", node).items():
            shown = "(a name)" if secret_in(str(name)) else str(name)
            yield from _secrets(name, (*place, shown))
            yield from _secrets(value, (*place, shown))
    elif isinstance(node, Sequence):
        for number, value in enumerate(cast("Sequence[object]", node)):
            yield from _secrets(value, (*place, str(number)))


def refuse_secret_names(names: Iterable[str], where: str, remedy: str) -> None:
    """Makes sure that no variable whose name tells a secret is given by value.

    Raises:
        UsageError: the message names the variables, not their values.
    """
    secret = sorted(name for name in names if is_secret_name(name))
    if secret:
        raise UsageError(f"{where}: expected no secrets by value, got {', '.join(secret)}; {remedy}")


def find_secret(data: bytes) -> tuple[str, int] | None:
    """What kind of secret stands in a file, and in which line, from 1; None: none that is known by its looks."""
    text = data.decode("utf-8", errors="replace")
    for kind, looks in {**SECRET_LOOKS, "an AWS secret key": _AWS_SECRET, "a password in a URL": _URL_PASSWORD}.items():
        found = looks.search(text)
        if found is not None:
            return kind, text.count("\n", 0, found.start()) + 1
    return None
