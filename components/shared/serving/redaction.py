"""Personal data and secrets taken out of text before it is kept: each is replaced by its kind in angle brackets."""

import re

_KINDS = {
    "key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    "token": r"\b(?:sk|pk|rk|ghp|gho|glpat|hf|xox[abp])[-_][A-Za-z0-9_-]{16,}|\bA(?:KI|SI)A[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|(?i:\bbearer\s+)[\w.~+/-]{16,}=*",
    "email": r"\b[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b",
    "url_credentials": r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",
    "ip": r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"
    r"|\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"\b(?:\d[ -]?){12,18}\d\b",
    "phone": r"(?<![\w.])(?:\+|00)\d{1,3}[ ./-]?(?:\(\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){6,11}\b"
    r"|(?<![\w.])\(?\d{3,4}\)?[ -]\d{3}[ -]\d{4}\b",
}
PLACEHOLDER = re.compile(f"<(?:{'|'.join(_KINDS)})>")
"""What `redact` leaves behind."""
_PATTERN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), re.DOTALL)


def redact(text: str) -> str:
    """`text` with e-mail addresses, telephone, card and account numbers, IP addresses and keys replaced."""
    return _PATTERN.sub(_replacement, text)


def _replacement(found: re.Match[str]) -> str:
    kind = str(found.lastgroup)
    if kind == "card" and not _luhn([int(c) for c in found[0] if c.isdigit()]):
        return found[0]
    return f"<{kind}>"


def _luhn(digits: list[int]) -> bool:
    """Whether the check digit of a card number is right."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
