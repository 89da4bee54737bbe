"""`site.toml`: what a site wants, checked when it is read.

Every key has a default, so that no file is as good as an empty one.
"""

import os
import re
import tomllib
from typing import Any

import attrs

from slurm_oci import pattern, settings, state
from slurm_oci.image import KINDS
from slurm_oci.problems import Problem, SiteInvalid, nearest

NAME = "site.toml"
RULE_KEYS = ("partition", "account", "qos", "user", "kind", "step")


@attrs.frozen
class Rule:
    """Which runtime runs the tasks for which all of `when` holds."""

    runtime: str
    when: dict[str, list[str]]


@attrs.frozen
class Defined:
    """A runtime in oci.conf's letters, a word each."""

    run: list[str]
    accepts: list[str]
    summary: str = ""


@attrs.frozen
class Images:
    """Where unpacked images are kept."""

    cache: str = ""  # users' own, a directory for each in it; empty: cache.BASE, or the home
    limit: int = 20  # GiB that a user's may hold
    store: str = ""  # the site's, which tasks only read and look into first
    owner: str = ""  # the account that fills it, beside root


@attrs.frozen
class Site:
    """The effective site settings."""

    user_hook: bool = True  # whether ~/.slurm-oci-run is looked for
    pull: bool = False  # whether an image may be fetched from a registry
    order: list[str] = attrs.Factory(list)  # of runtimes; empty: the built-in order
    state: str = state.BASE  # where users' state roots are made, local to the node
    log: str = ""  # where a line a task goes: `syslog` or a file's path; empty: nowhere
    images: Images = attrs.Factory(Images)
    executables: dict[str, str] = attrs.Factory(dict)  # name -> path
    defaults: dict[str, Any] = attrs.Factory(dict)  # per-job settings, by the settings' names
    rules: list[Rule] = attrs.Factory(list)
    runtimes: dict[str, Defined] = attrs.Factory(dict)

    def plain(self) -> dict[str, Any]:
        return attrs.asdict(self)


def read(path: str) -> Site:
    """The settings in the file at `path`; the defaults if there is none. Raises SiteInvalid."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except FileNotFoundError:
        return Site()
    except (OSError, UnicodeDecodeError) as error:
        raise SiteInvalid(f"cannot read `{path}`: {error}") from None
    try:
        return check(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SiteInvalid(f"`{path}` is not valid TOML: {error}") from None
    except Wrong as wrong:
        raise SiteInvalid(f"{path}:{line_of(wrong.key, text)}: {wrong}", *wrong.hints) from None


class Wrong(ValueError):
    """What is wrong with a key."""

    def __init__(self, key: str, message: str, *hints: str) -> None:
        super().__init__(message)
        self.key = key
        self.hints = hints


def line_of(key: str, text: str) -> int:
    """The line that the last part of `key` is set in, or the table of that name begins in."""
    last = re.escape(key.rpartition(".")[2])
    pattern_ = re.compile(rf"^\s*(\[+[^\]]*\b{last}\s*\]+|[\"']?{last}[\"']?\s*=)")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern_.match(line)), 1)


def check(data: dict[str, Any]) -> Site:
    fields = attrs.fields_dict(Site)
    known(data, tuple(fields), "")
    for name in ("user_hook", "pull"):
        typed(data, name, bool, "true or false")
    typed(data, "state", str, "a path")
    if not os.path.isabs(data.get("state", "/")):
        raise Wrong("state", f"`state` is `{data['state']}`: expected a path that starts with `/`")
    typed(data, "log", str, "`syslog` or a path")
    if data.get("log", "") not in ("", "syslog") and not os.path.isabs(data["log"]):
        raise Wrong("log", f"`log` is `{data['log']}`: expected `syslog` or a path that starts with `/`")
    texts(data, "order", "order")
    for table in ("images", "executables", "defaults", "runtimes"):
        typed(data, table, dict, "a table")
    for name, path in data.get("executables", {}).items():
        if not isinstance(path, str) or not os.path.isabs(path):
            raise Wrong(f"executables.{name}", f"`executables.{name}` is {path!r}: expected an absolute path")
    defaults = data.get("defaults", {})
    known(defaults, settings.NAMES, "defaults.")
    try:
        settings.combine([(NAME, {k: v for k, v in defaults.items() if k != "mounts"})], "/")
    except Problem as problem:
        raise Wrong("defaults", problem.message, *problem.hints) from None
    return Site(
        **{
            **data,
            "images": images(data.get("images", {})),
            "rules": [rule(number, given) for number, given in enumerate(data.get("rules", []), 1)],
            "runtimes": {name: defined(name, given) for name, given in data.get("runtimes", {}).items()},
        }
    )


def images(given: dict[str, Any]) -> Images:
    known(given, tuple(attrs.fields_dict(Images)), "images.")
    for key in ("cache", "store"):
        if not isinstance(given.get(key, ""), str) or not os.path.isabs(given.get(key) or "/"):
            raise Wrong(f"images.{key}", f"`images.{key}` is {given[key]!r}: expected an absolute path")
    typed(given, "owner", str, "a user's name")
    limit = given.get("limit", 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise Wrong("images.limit", f"`images.limit` is {limit!r}: expected a number of GiB")
    return Images(**given)


def rule(number: int, given: dict[str, Any]) -> Rule:
    where = f"rules[{number}]."
    known(given, ("runtime", *RULE_KEYS), where)
    if not isinstance(given.get("runtime"), str):
        raise Wrong("rules", f"`{where}runtime` is missing: a rule names the runtime that it chooses")
    when = {
        key: [value] if isinstance(value, str) else value for key, value in given.items() if key != "runtime"
    }
    for key in when:
        texts(when, key, where + key)
    return Rule(given["runtime"], when)


def defined(name: str, given: dict[str, Any]) -> Defined:
    where = f"runtimes.{name}."
    known(given, tuple(attrs.fields_dict(Defined)), where)
    for key in ("run", "accepts"):
        texts(given, key, where + key)
        if not given.get(key):
            raise Wrong(f"runtimes.{name}", f"`{where}{key}` is missing: expected a list of texts")
    for kind in given["accepts"]:
        if kind not in KINDS:
            raise Wrong(f"{where}accepts", f"`{where}accepts` has `{kind}`" + meant(kind, tuple(KINDS)))
    try:
        pattern.parse(given["run"])
    except Problem as problem:
        raise Wrong(f"{where}run", f"`{where}run`: {problem.message}", *problem.hints) from None
    return Defined(**given)


def known(data: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in names:
            raise Wrong(where + key, f"there is no `{where}{key}`" + meant(key, names))


def meant(word: str, names: tuple[str, ...]) -> str:
    near = nearest(word, names)
    return f"; did you mean `{near}`?" if near else f"; known are {', '.join(names)}"


def typed(data: dict[str, Any], name: str, kind: type, expected: str) -> None:
    if not isinstance(data.get(name, kind()), kind):
        raise Wrong(name, f"`{name}` is {data[name]!r}: expected {expected}")


def texts(data: dict[str, Any], name: str, shown: str) -> None:
    value = data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Wrong(shown, f"`{shown}` is {value!r}: expected a list of texts")
