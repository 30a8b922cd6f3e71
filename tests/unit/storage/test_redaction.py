"""Secrets are taken out of texts, and what isn't one stays."""

from __future__ import annotations

import pytest

from storage.redaction import is_secret_name, redact, redact_json

ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "AWS_ACCESS_KEY_ID": "ours-not-theirs",
    "HF_TOKEN": "a-token-of-mine",
    "DB_PASSWORD": "p%w",
    "AWS_REGION": "eu-central-1",
    "RAY_AUTH_TOKEN_PATH": "/home/me/token",
    "MAX_NEW_TOKENS": "123456",
}


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "OPENAI_APIKEY",
        "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING", "MLFLOW_TRACKING_PASSWORD", "db_passwd",
        "SECRET", "RAY_AUTH_TOKEN", "password",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_REGION", "AWS_ENDPOINT_URL", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "MONKEY", "KEYBOARD", "PASSAGE",
        "RAY_AUTH_TOKEN_PATH", "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "max_new_tokens",
        "tokenizer", "key",
    ],
)  # fmt: skip
def test_names_that_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refused: wJalrXUtnFEMI/K7MDENG!", "refused: <AWS_SECRET_ACCESS_KEY>!"),
        ("GET /?k=wJalrXUtnFEMI%2FK7MDENG", "GET /?k=<AWS_SECRET_ACCESS_KEY>"),
        ("key ours-not-theirs, a-token-of-mine", "key <AWS_ACCESS_KEY_ID>, <HF_TOKEN>"),
        ("https://ada:s3cr3t@host/path", "https://<userinfo>@host/path"),
        ("https://ada:p@ss@host/path", "https://<userinfo>@host/path"),
        ("postgresql+psycopg://u:p@db:5432/x", "postgresql+psycopg://<userinfo>@db:5432/x"),
        (
            "https://b.s3/x?X-Amz-Credential=AK%2F1&X-Amz-Date=2026&X-Amz-Signature=ab12",
            "https://b.s3/x?X-Amz-Credential=<signature>&X-Amz-Date=2026&X-Amz-Signature=<signature>",
        ),
        ("https://a.blob/x?sv=2024&sig=q%2Bz%3D&se=1", "https://a.blob/x?sv=2024&sig=<signature>&se=1"),
        ("http://127.0.0.1:9/?token=abcdef", "http://127.0.0.1:9/?token=<signature>"),
        ("Authorization: Bearer eyJhbGciOi.J9", "Authorization: Bearer <credentials>"),
        (
            "AWS4-HMAC-SHA256 Credential=AK/2026/s3, SignedHeaders=host, Signature=0f0f",
            "AWS4-HMAC-SHA256 Credential=<signature>, SignedHeaders=host, Signature=<signature>",
        ),
        ("environ({'OTHER_SECRET': 'xyz', 'HOME': '/'})", "environ({'OTHER_SECRET': '<OTHER_SECRET>', 'HOME': '/'})"),
        ("export THEIR_TOKEN=xyz; HOME=/", "export THEIR_TOKEN=<THEIR_TOKEN>; HOME=/"),
        ("hf_" + "a" * 34, "<a Hugging Face token>"),
        ("AKIA" + "B" * 16, "<an AWS access key>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "<a private key>"),
        ("-----BEGIN PRIVATE KEY----- torn", "<a private key> torn"),
    ],
)
def test_secrets_go(text: str, shown: str) -> None:
    assert redact(text, ENVIRONMENT) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix/key@2x.png: expected stride 16, got 14 (64x64 from 896 px); re-run teach",
        "tokens/s=12,346 num_tokens=512 MAX_NEW_TOKENS=64 p%w in eu-central-1",
        "token file /home/me/token: expected a file; https://host:8265/api?x=a@b",
        "the basic recipe; a bearer of news; Signature=abc of a function",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text, ENVIRONMENT) == text


def test_the_environment_is_looked_at_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact("set later") == "set later"
    monkeypatch.setenv("SOME_PASSWORD", "set later")
    assert redact("set later") == "<SOME_PASSWORD>"


def test_plain_data() -> None:
    tree = {
        "uri": "http://u:p@mlflow",
        "password": "short",
        "api_key": None,
        "max_new_tokens": 64,
        "steps": [1, "a-token-of-mine", {"x": True}],
    }
    assert redact_json(tree, ENVIRONMENT) == {
        "uri": "http://<userinfo>@mlflow",
        "password": "<password>",
        "api_key": None,
        "max_new_tokens": 64,
        "steps": [1, "<HF_TOKEN>", {"x": True}],
    }
