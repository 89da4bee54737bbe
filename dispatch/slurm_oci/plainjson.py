"""JSON by the functions in C that Python's `json` itself uses, for tasks.

`json` imports `re`, which costs a task more than the bundle that it reads. What the C functions do not
take, or a Python that has others, `json` gets.
"""

from slurm_oci.values import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

WHITE = " \t\n\r"  # RFC 8259, 2


class Usual:
    """How numbers, objects and arrays are made: as `json.loads` does without being told otherwise."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_int = int
    parse_float = float
    parse_constant = float  # NaN, Infinity and -Infinity


def loads(text: str) -> "Any":
    """The value that `text` writes. Raises ValueError and RecursionError as `json.loads` does."""
    try:
        from _json import make_scanner

        value, end = make_scanner(Usual)(text, len(text) - len(text.lstrip(WHITE)))  # type: ignore[arg-type]
        if not text[end:].strip(WHITE):
            return value
    except (ImportError, AttributeError, TypeError, StopIteration):
        pass
    import json  # which also says best what is wrong

    return json.loads(text)


def dumps(value: "Any", ensure_ascii: bool = False) -> str:
    """`value` on one line, as `json.dumps` writes it. Raises TypeError and ValueError as that does."""
    try:
        from _json import encode_basestring, encode_basestring_ascii, make_encoder

        encode = encode_basestring_ascii if ensure_ascii else encode_basestring
        encoder = make_encoder({}, None, encode, None, ": ", ", ", False, False, True)  # type: ignore[arg-type]
        return "".join(encoder(value, 0))
    except (ImportError, TypeError):
        import json

        return json.dumps(value, ensure_ascii=ensure_ascii)
