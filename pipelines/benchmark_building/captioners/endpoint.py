"""A captioner behind any OpenAI-compatible endpoint; the picture travels as a data URL.

Standard library alone: one POST per draft, with a time-out, retries of what is transient, and no redirects.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar, Literal, cast

from pydantic import Field, field_validator

from pipelines.benchmark_building.captioners.base import BaseCaptionerConfig, DraftError, DraftRequest
from pipelines.benchmark_building.captioners.instructions import SYSTEM, instruction, marked_regions, read_reply
from pipelines.benchmark_building.drawing import with_regions
from pipelines.benchmark_building.records import Texts
from pipelines.image_files import image_file
from storage.errors import InfrastructureError, UsageError

__all__ = ["EndpointCaptioner", "EndpointCaptionerConfig"]

logger = logging.getLogger(__name__)

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_MAX_REPLY_BYTES = 4 * 2**20
_SHOWN_CHARACTERS = 300
_JPEG_QUALITY = 90


class EndpointCaptionerConfig(BaseCaptionerConfig):
    """A model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`)."""

    kind: Literal["endpoint"] = "endpoint"
    """Name in the registry."""
    VERSION: ClassVar[int] = 1

    url: str
    """Base address, such as `https://host/v1`; without the key, which has no place here."""
    model: str = Field(min_length=1)
    """Name of the model, as the endpoint knows it."""
    key_variable: str | None = Field(default="OPENAI_API_KEY", json_schema_extra={"hashed": False})
    """Name of the environment variable that holds the key; null: the endpoint wants none."""
    side_px: int = Field(default=1024, ge=64)
    """Longer side of the picture that is sent, in px."""
    max_tokens: int = Field(default=400, ge=1)
    """Upper bound of a reply."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the model's choice of words."""
    timeout_s: float = Field(default=60.0, gt=0, json_schema_extra={"hashed": False})
    """Longest wait for a reply, in seconds."""
    max_retries: int = Field(default=5, ge=0, json_schema_extra={"hashed": False})
    """Further tries after trouble that may pass, with doubling pauses."""

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an address such as https://host/v1, got {url!r}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected an address without name, password, query or fragment; the key comes by variable")
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not name.replace("_", "a").isalnum():
            raise ValueError("expected the name of an environment variable, not the key itself")
        return name

    def build(self) -> EndpointCaptioner:
        """The captioner; raises UsageError where the key's variable isn't set."""
        return EndpointCaptioner(self)

    def description(self) -> str:
        """Model and host."""
        return f"{self.model} at {urllib.parse.urlsplit(self.url).netloc}, instructions version {self.VERSION}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes to the address in the recipe and nowhere else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Never follows."""


class EndpointCaptioner:
    """Asks the endpoint for one draft after the other.

    Args:
        config: where and how.
        environment: variables; those of the process by default.
        sleep: waits between tries, in seconds.

    Raises:
        UsageError: the variable that the configuration names isn't set, or the key can't be sent.
    """

    is_concurrent = True

    def __init__(
        self,
        config: EndpointCaptionerConfig,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._sleep = sleep
        self._key: str | None = None
        if config.key_variable is not None:
            self._key = (os.environ if environment is None else environment).get(config.key_variable)
            if not self._key:
                raise UsageError(
                    f"captioner.key_variable: expected the environment to hold {config.key_variable}, found none; "
                    "export it, or say key_variable: null for an endpoint without keys"
                )
            if not (self._key.isascii() and self._key.isprintable()):
                raise UsageError(
                    f"captioner.key_variable: expected printable ASCII in {config.key_variable}, found other "
                    "characters (a line break?); export it again"
                )
        self._opener = urllib.request.build_opener(_NoRedirects)

    def draft(self, request: DraftRequest) -> Texts:
        """The draft that the model writes.

        Raises:
            DraftError: its reply is no draft.
            UsageError: the endpoint refuses the request: key, model or address are wrong.
            InfrastructureError: it can't be reached, or is overloaded, after all retries.
        """
        return read_reply(request, _content(self._post(self._body(request))))

    def _body(self, request: DraftRequest) -> bytes:
        picture = with_regions(request.pixels, marked_regions(request), self._config.side_px)
        data = image_file(picture, "JPEG", quality=_JPEG_QUALITY)
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
        body = {
            "model": self._config.model,
            "max_tokens": self._config.max_tokens,
            "temperature": self._config.temperature,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": instruction(request)},
                    ],
                },
            ],
        }
        return json.dumps(body).encode()

    def _post(self, body: bytes) -> bytes:
        """The reply's bytes; transient trouble is tried again."""
        url = f"{self._config.url}/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        trouble = "none"
        for attempt in range(self._config.max_retries + 1):
            pause_s: float | None = None
            try:
                query = urllib.request.Request(url, body, headers, method="POST")
                with self._opener.open(query, timeout=self._config.timeout_s) as reply:
                    data = cast(bytes, reply.read(_MAX_REPLY_BYTES + 1))
                if len(data) > _MAX_REPLY_BYTES:
                    raise DraftError(f"reply: expected at most {_MAX_REPLY_BYTES} bytes, got more")
                if reply.length:  # of what was announced and didn't come
                    raise http.client.IncompleteRead(b"", reply.length)
                return data
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(_MAX_REPLY_BYTES).decode("utf-8", "replace")
                trouble = f"HTTP {error.code} {error.reason}: {self._without_key(said)}"
                if error.code not in _TRANSIENT:
                    raise UsageError(
                        f"captioner {url}: refused with {trouble}; check url, model and key_variable"
                    ) from None
                pause_s = _seconds(error.headers.get("Retry-After"))
            # What the standard library raises for refused, reset and cut connections, time-outs, and what isn't HTTP.
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {getattr(error, 'reason', None) or error}"
            if attempt < self._config.max_retries:
                logger.info("captioner %s: %s; trying again", url, trouble)
                # Not part of any output: many processes mustn't all come back at the same moment.
                doubled_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
                self._sleep(doubled_s if pause_s is None else min(pause_s, _LONGEST_PAUSE_S))
        raise InfrastructureError(
            f"captioner {url}: no reply in {self._config.max_retries + 1} tries, last {trouble}; "
            "what is drafted stays, the same command continues"
        )

    def _without_key(self, said: str) -> str:
        """What an endpoint says of an error, shortened; some repeat the key."""
        said = said if self._key is None else said.replace(self._key, "[key]")
        return ascii(said[:_SHOWN_CHARACTERS])


def _content(data: bytes) -> str:
    """The text of the first choice in an endpoint's reply."""
    try:
        value: Any = json.loads(data)
        content: object = value["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        shown = ascii(data[:_SHOWN_CHARACTERS].decode("utf-8", "replace"))
        raise DraftError(f"reply: expected choices[0].message.content, got {shown}") from error
    if not isinstance(content, str):
        raise DraftError(f"reply: expected text in choices[0].message.content, got {content!r:.100}")
    return content


def _seconds(header: str | None) -> float | None:
    """Seconds of a `Retry-After`; None where there is none, or a date."""
    try:
        return None if header is None else max(float(header), 0.0)
    except ValueError:
        return None
