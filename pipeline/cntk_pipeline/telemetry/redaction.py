"""Removal of credentials from texts that others may read: logs, reports, error messages."""

import os
import re

MASK = "***"

_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")

_NAME = r"(?:aws[_-]?)?(?:secret[_-]?access[_-]?key|access[_-]?key[_-]?id|session[_-]?token|security[_-]?token)"

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
        value = os.environ.get(variable, "")
        if len(value) >= 4:  # shorter values are no credentials, and would occur in words
            text = text.replace(value, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
