"""What a failure of an object store means: one error with the URL, what the server said, and a remedy.

Whether a request is worth repeating is told here as well. Values of credentials appear in no message.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from obstore import exceptions

from storage.errors import InfrastructureError, ObjectNotFound
from storage.redaction import redact

__all__ = ["is_out_of_reach", "is_trouble", "is_unclear", "needed_variables", "our_error"]

_S3_VARIABLES = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL"
_VARIABLES = {
    "s3": _S3_VARIABLES,
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
}

_NO_BUCKET = "the bucket doesn't exist; create it or correct the URL"
_TOO_OLD = "access refused, the credentials have expired; set new ones, AWS_SESSION_TOKEN with them"
_SKEWED = "access refused, this machine's clock and the server's differ by more than it allows; set the clock (NTP)"
_NOT_ALLOWED = (
    "access refused, the server knows the credentials and doesn't allow this; grant reading, writing, deleting and "
    "listing below the URL (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket), or use other credentials"
)
_REGION = "the bucket lies in another region; set AWS_REGION to it"
_BUSY = "the server is too busy and stayed so over all repetitions; try again later, or with fewer processes at once"
_MEANINGS = {
    "NoSuchBucket": _NO_BUCKET,
    "ContainerNotFound": _NO_BUCKET,
    "InvalidAccessKeyId": "access refused, the server doesn't know the access key; check AWS_ACCESS_KEY_ID, and "
    "AWS_ENDPOINT_URL for whether it is the right server",
    "SignatureDoesNotMatch": "access refused, the secret key isn't that of the access key; check "
    "AWS_SECRET_ACCESS_KEY, then AWS_REGION, and whether something on the way rewrites requests",
    "ExpiredToken": _TOO_OLD,
    "InvalidToken": _TOO_OLD,
    "RequestTimeTooSkewed": _SKEWED,
    "RequestExpired": _SKEWED,
    "AccessDenied": _NOT_ALLOWED,
    "AccountProblem": _NOT_ALLOWED,
    "AllAccessDisabled": _NOT_ALLOWED,
    "AuthorizationPermissionMismatch": _NOT_ALLOWED,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "ServerBusy": _BUSY,
    "NotImplemented": "the server can't do this; Sailloft needs conditional writes (If-None-Match) and ranges",
}
"""By the codes of S3, which Google's answers use too, and a few of Azure."""

_CODE = re.compile(r"<Code>([A-Za-z0-9]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_STATUS = re.compile(r"non-2xx status code: (\d+)")
_TROUBLE = re.compile(
    r"non-2xx status code: (?:5|429)|<Code>ConditionalRequestConflict<|"
    r"kind: (?:Connect|Interrupted|Timeout|Request|Body),"
)
_ASKED = re.compile(r"Error performing [A-Z]+ (\S+) in ")
_ROLE_PATHS = ("/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/")
"""Where machines of a cloud ask for the credentials of their role."""
_PRESENTED = re.compile(r'DnsName\(\\?"([^"\\]+)')
_MAX_TEXT = 400


def our_error(error: BaseException, url: str, scheme: str, action: str) -> InfrastructureError:
    """Our error for one of obstore's or the operating system's: what was done, where, and what to do about it.

    Args:
        error: what was raised.
        url: the object or prefix.
        scheme: of the store, such as `s3`.
        action: what was done, as a verb.
    """
    code, meaning, said = _code(error), _meaning(error, scheme), _said(error)
    if isinstance(error, FileNotFoundError) and _MEANINGS.get(code) != _NO_BUCKET:
        return ObjectNotFound(f"{action} {url}: no such object; run the stage that writes it, or correct the URL")
    return InfrastructureError(f"{action} {url}: {meaning}" + (f" ({said})" if said else ""))


def needed_variables(scheme: str) -> str:
    """Names of the environment's variables that lead to a store and open it; empty where none do."""
    return _VARIABLES.get(scheme, "")


def is_out_of_reach(error: BaseException) -> bool:
    """Whether no server was spoken to: none answers, its certificate isn't accepted, or credentials lack."""
    return _asks_for_a_role(error) or "kind: Connect" in str(error)


def is_unclear(error: BaseException) -> bool:
    """Whether the connection was lost after the request was sent: the server may have done what it was asked."""
    return isinstance(error, exceptions.BaseError) and bool(re.search(r"kind: (Interrupted|Timeout),", str(error)))


def is_trouble(error: BaseException) -> bool:
    """Whether the server is away or can't answer now, which says nothing of the object that was asked for."""
    return _TROUBLE.search(str(error)) is not None


def _meaning(error: BaseException, scheme: str) -> str:
    code, variables = _code(error), needed_variables(scheme)
    if code in _MEANINGS:
        return _MEANINGS[code]
    if scheme in ("file", "memory"):
        return f"{_first_line(error)}; check permissions and free space"
    if _asks_for_a_role(error):
        return f"no credentials found, and this machine has no role that gives any; set {variables}"
    setting = "AWS_ENDPOINT_URL" if scheme == "s3" else "the URL"
    if is_out_of_reach(error):
        return _why_unreachable(error, setting)
    status = _STATUS.search(_told(error))
    denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if denied or (status is not None and status[1] in ("401", "403")):
        return f"access refused; check {variables or 'the URL'} and the rights on it"
    if "redirect without LOCATION" in str(error):
        return _REGION
    if is_unclear(error):
        what = "doesn't answer" if "kind: Timeout" in str(error) else "breaks the connection off"
        return f"{_endpoint(error)} {what}; check {setting} and the network"
    if status is not None and status[1] in ("429", "503"):
        return _BUSY
    if "Generic S3 error: Missing" in str(error):
        return f"credentials are incomplete; set {variables}"
    return f"the store failed; if it persists check {variables or 'the URL'}"


def _why_unreachable(error: BaseException, setting: str) -> str:
    """Nobody was spoken to: who isn't there, and why."""
    text, where = str(error), _endpoint(error)
    if "NotValidForName" in text:
        names = ", ".join(dict.fromkeys(_PRESENTED.findall(text))) or "other names"
        return f"{where}: its certificate isn't for this name but for {names}; correct {setting}"
    if "UnknownIssuer" in text:
        return (
            f"{where}: its certificate is by an authority that this machine doesn't know; name the authority's "
            f"file in SSL_CERT_FILE, or correct {setting}"
        )
    if "InvalidCertificate" in text:
        kind = re.search(r"InvalidCertificate\(\s*(\w+)", text)
        what = f" ({kind[1]})" if kind else ""
        return f"{where}: its certificate isn't valid{what}; set this machine's clock, or renew the certificate"
    if "InvalidMessage" in text or "InvalidContentType" in text:
        return f"{where}: speaks no TLS; correct {setting}, perhaps to http://"
    if "dns error" in text:
        return f"{where} unreachable, its name has no address; check {setting} and the network"
    reason = ", the connection is refused" if "ConnectionRefused" in text else ""
    return f"{where} unreachable{reason}; check {setting} and the network"


def _endpoint(error: BaseException) -> str:
    """Whom was asked, for messages."""
    asked = _ASKED.search(_told(error))
    parts = urlsplit(asked[1] if asked else "")
    return f"endpoint {parts.scheme}://{parts.netloc}" if parts.netloc else "endpoint"


def _asks_for_a_role(error: BaseException) -> bool:
    """Whether what failed is the question for the credentials of this machine's role."""
    asked = _ASKED.search(_told(error))
    return "169.254." in str(error) or (asked is not None and any(path in asked[1] for path in _ROLE_PATHS))


def _said(error: BaseException) -> str:
    """What the server or the client said, for the end of a message."""
    code, message = _code(error), _MESSAGE.search(_told(error))
    if code:
        text = message[1].strip() if message else ""
        return redact(f"the server says {code}{': ' if text else ''}{text}")[:_MAX_TEXT]
    return _first_line(error) if isinstance(error, exceptions.BaseError) else ""


def _code(error: BaseException) -> str:
    """The code of the server's answer; empty: it has none, as answers to HEAD."""
    found = _CODE.search(_told(error))
    return found[1] if found else ""


def _told(error: BaseException) -> str:
    """What obstore says, without what it adds for its own makers; of several lines where the answer has several."""
    return str(error).partition("\n\nDebug source:")[0]


def _first_line(error: BaseException) -> str:
    return redact(str(error).partition("\n")[0].strip())[:_MAX_TEXT]
