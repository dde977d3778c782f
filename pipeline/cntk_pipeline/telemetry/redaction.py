"""Removal of credentials from texts that others may read: logs, reports, error messages."""

import os
import re

MASK = "***"

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")

_NAME = r"(?:aws[_-]?)?(?:secret[_-]?access[_-]?key|access[_-]?key[_-]?id|session[_-]?token|security[_-]?token)"

KEY_CHARACTERS = 16
"""Fewest characters of a key of AWS; a shorter value of its variables is of a server for trials."""

_PATTERNS = (
    # scheme://user:password@host, or a token in place of both
    (re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"), MASK),
    # the signature of a request, in the address itself
    (re.compile(r"(?i)(X-Amz-(?:Credential|Signature|Security-Token)=)[^&\s'\"]+"), rf"\g<1>{MASK}"),
    (re.compile(r"(?i)(\bAuthorization['\"]?\s*[:=]\s*).+"), rf"\g<1>{MASK}"),
    # aws_secret_access_key=..., "SecretAccessKey": "...", password=...
    (re.compile(rf"(?i)((?:{_NAME}|\bpassword|\bsecret)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&]+"), rf"\g<1>{MASK}"),
    # access keys are known by their form alone
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
)


def redact(text: str) -> str:
    """Replace credentials in a text: user info of addresses, keys and signatures of AWS, values of its variables.

    Examples
    --------
    >>> redact("cannot reach https://me:pw@host/bucket with AKIAABCDEFGHIJKLMNOP")
    'cannot reach https://***@host/bucket with ***'
    """
    for variable in _SECRET_VARIABLES:
        text = _without(os.environ.get(variable, ""), text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _without(value: str, text: str) -> str:
    """Mask a value of a variable; a short one may also be a common word ("test", "minio"), and is part of others."""
    if len(value) >= KEY_CHARACTERS:
        return text.replace(value, MASK)
    if len(value) < 4 or re.fullmatch("[a-z]+", value):
        return text
    return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, text)
