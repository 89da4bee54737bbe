"""The classes of arguments in the table of docs/arguments.md, and the table's data beside it.

SLURM_OCI_UPDATE=1 writes what the tests find, instead of comparing, and then `python docs/generate.py`
makes the table from it.
"""

import table

CLASSES = {
    "none": [[]],
    "empty": [[""], ["", "a", "", ""]],
    "space": [["a b"], [" ", "  a", "a "]],
    "tab": [["a\tb", "\t"]],
    "newline": [["a\nb"], ["\n", "a\n", "\na"]],
    "single quote": [["it's"], ["'"], ["a'b'c"]],
    "single quotes that pair up": [["'\"'"], ["'", " ", "'"]],
    "double quote": [['a"b', '"', '""']],
    "backslash": [["a\\b", "\\", "\\\\", "\\n", "\\'"[:1]]],
    "`$()`": [["$(id)", "`id`", "$HOME", "${HOME}", "$"]],
    "glob": [["*", "/*", "[a]?", "{a,b}", "~"]],
    "`;`, `&`, `#`": [["a;b", "&", "#", "a #b", "|", ">x", "!"]],
    "leading `-`": [["-n"], ["-c", "--help"]],
    "`--`": [["--"], ["--", "-x", "--"]],
    "`%`": [["%b", "%@", "%", "%%"]],
    "not UTF-8": [["\udcff\udcfe"], ["a\udce9b"]],
    "one of 100 kB": [["x" * 100_000]],
    "a thousand short ones": [[str(number) for number in range(1000)]],
}
QUOTES = ("single quote", "single quotes that pair up")  # in which releases of Slurm differ


def verdict(verdicts: list[str]) -> str:
    """Of a class: what was found of each of its lists."""
    return ", ".join(dict.fromkeys(verdicts))


def compare(suite: str, slurm: str, column: str, found: dict[str, str]) -> None:
    """`found` for each class with what the docs say in this suite's `column`; or writes it there."""
    table.compare("arguments", (suite, "columns", column), found, slurm=slurm)
