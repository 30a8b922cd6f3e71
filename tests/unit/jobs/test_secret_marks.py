"""Secrets are known by the names of variables and by what stands in files."""

from __future__ import annotations

import pytest

from jobs.secret_marks import find_secret, refuse_secret_names, refuse_secrets
from storage.errors import UsageError


def test_secrets_by_value_are_refused_by_name_alone() -> None:
    with pytest.raises(UsageError, match=r"here: expected no secrets by value, got A_TOKEN, B_SECRET; use a file"):
        refuse_secret_names(["B_SECRET", "HOME", "A_TOKEN"], "here", "use a file")
    refuse_secret_names(["HOME"], "here", "use a file")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"a\n-----BEGIN RSA PRIVATE KEY-----\n", ("a private key", 2)),
        (b"aws_secret_access_key = " + b"a/B+" * 10, ("an AWS secret key", 1)),
        (b"t = 'ghp_" + b"a" * 36 + b"'", ("a GitHub token", 1)),
        (b"xoxb-" + b"1" * 20, ("a Slack token", 1)),
        (b"AIza" + b"x" * 35, ("a Google key", 1)),
        (b"a\nurl = postgres://ada:hunter22@host/db", ("a password in a URL", 2)),
        (b"--extra-index-url https://ci:t0k%40n@pypi.internal/simple", ("a password in a URL", 1)),
        (b"f'https://{user}:{word}@host' https://$USER:$WORD@host https://%s:%s@host https://u:***@host", None),
        (b"https://user:password@host, git+ssh://git@host/x, http://host:80/a@b, s3://bucket/x", None),
        (b"hf_hub_download and AKIA and -----BEGIN CERTIFICATE-----", None),
    ],
)
def test_looks_of_secrets(text: bytes, found: tuple[str, int] | None) -> None:
    assert find_secret(text) == found


def test_secrets_in_settings_are_named_by_their_place_alone() -> None:
    tree = {
        "workspace": "s3://AKIA123:hunter22@bucket",
        "sources": [{"root": "s3://bucket/a"}, {"root": "https://host/b?X-Amz-Signature=hunter22"}],
        "notes": ["https://hunter22@host", 1, None, "basic segmentation, bearer of names"],
        "https://ada:hunter22@host": "hf_" + "a" * 34,
        "code": "git+ssh://git@host/code.git",
    }
    with pytest.raises(UsageError, match=r"^here: .*; use a file$") as caught:
        refuse_secrets(tree, "here", "use a file")
    assert str(caught.value).split("; ")[:-1] == [
        "here: workspace: expected no secret, got a user or password in a URL",
        "sources.1.root: expected no secret, got a signature or token in a URL",
        "notes.0: expected no secret, got a user or password in a URL",
        "(a name): expected no secret, got a user or password in a URL",
        "(a name): expected no secret, got a Hugging Face token",
    ]
    refuse_secrets({"workspace": "s3://bucket/prefix", "steps": 3, "code": tree["code"]}, "here", "use a file")
