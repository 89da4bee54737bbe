"""What looks like a secret, and is shown to nobody: in `explain`, errors, the trace and the log."""

import re

HIDDEN = "********"
# Of a variable's name. A few that are none are hidden with them; PWD and BYPASS are not.
NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|(?<!BY|OM)PASS$|CREDENTIAL|APIKEY|_KEYS?$|API_KEY|PRIVATE_KEY|AUTH|COOKIE|_PWD$|_PAT$"
)
# `scheme://user:password@host`, and not a tag before a digest, as in `docker://alpine:3@sha256:…`.
PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/\s]*@(?!sha\d+:)")


def is_secret(name: str) -> bool:
    """Whether the value of a variable of this name is likely to be one."""
    return NAME.search(name.upper()) is not None


def without_passwords(text: str) -> str:
    """`text` with three stars for each password in a URI in it."""
    return PASSWORD.sub(r"\1***@", text)
