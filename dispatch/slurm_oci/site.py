"""`site.toml`: what a site wants, checked when it is read.

Every key has a default, so that no file is as good as an empty one.
"""

import os
import tomllib
from typing import Any

import attrs

from slurm_oci import modules, pattern, settings, state
from slurm_oci.image import KINDS
from slurm_oci.positions import Place, Positions
from slurm_oci.problems import Problem, SiteInvalid, nearest
from slurm_oci.values import STEP_KINDS

NAME = "site.toml"
STEPS = ("step", *STEP_KINDS.values())
RULE_KEYS = ("partition", "account", "qos", "user", "kind", "step")
# Settings of a job that no table of the site's has, and what to write instead.
NOT_FOR_JOBS = {"user_hook": "`user_hook = false` is a key of its own, above all tables"}
NOT_BY_RULE = {**NOT_FOR_JOBS, "debug": "it is a job's: SLURM_OCI_DEBUG=1; or everybody's: under [defaults]"}


@attrs.frozen
class Rule:
    """Per-job settings of the tasks for which all of `when` holds."""

    settings: dict[str, Any]
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
    allow_runtimes: list[str] = attrs.Factory(list)  # no others; empty: all
    refuse_runtimes: list[str] = attrs.Factory(list)
    refuse: list[str] = attrs.Factory(list)  # what no job may ask for: `setting` or `setting=value`
    executables: dict[str, str] = attrs.Factory(dict)  # name -> path
    arguments: dict[str, list[str]] = attrs.Factory(dict)  # runtime -> further words of its command line
    defaults: dict[str, Any] = attrs.Factory(dict)  # per-job settings, by the settings' names
    forced: dict[str, Any] = attrs.Factory(dict)  # the same, and no job can have others
    rules: list[Rule] = attrs.Factory(list)
    runtimes: dict[str, Defined] = attrs.Factory(dict)

    def plain(self) -> dict[str, Any]:
        return attrs.asdict(self)


def read(path: str) -> Site:
    """The settings in the file at `path`; the defaults if there is none. Raises SiteInvalid."""
    try:
        text = modules.content(path).decode()
    except FileNotFoundError:
        return Site()
    except OSError as error:
        raise SiteInvalid(
            f"cannot read `{path}`: {error.strerror}", "all users must be allowed to read it: `chmod a+r`"
        ) from None
    except UnicodeDecodeError as error:
        raise SiteInvalid(f"`{path}` is not valid TOML: {error}", "it must be UTF-8") from None
    try:
        return check(tomllib.loads(text))
    except Wrong as wrong:
        raise SiteInvalid(f"{path}:{Positions(text)[wrong.place]}: {wrong}", *wrong.hints) from None
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits
        raise SiteInvalid(f"`{path}` is not valid TOML: {error}", "see toml.io for the format") from None


def positions(path: str) -> Positions:
    """Where the keys of the file at `path`, which `read` has found valid, stand in it."""
    try:
        return Positions(modules.content(path).decode())
    except FileNotFoundError:
        return Positions("")


class Wrong(ValueError):
    """What is wrong with a key."""

    def __init__(self, place: Place, message: str, *hints: str) -> None:
        super().__init__(message)
        self.place = place
        self.hints = hints


def named(place: Place) -> str:
    """How a key is written in messages: `rules[2].kind`, counted from 1."""
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def check(data: dict[str, Any]) -> Site:
    known(data, tuple(attrs.fields_dict(Site)), ())
    for name in ("user_hook", "pull"):
        typed(data, (name,), bool, "true or false")
    typed(data, ("state",), str, "a path")
    if not os.path.isabs(data.get("state", "/")):
        raise Wrong(("state",), f"`state` is `{data['state']}`: expected a path that starts with `/`")
    typed(data, ("log",), str, "`syslog` or a path")
    if data.get("log", "") not in ("", "syslog") and not os.path.isabs(data["log"]):
        message = f"`log` is `{data['log']}`: expected `syslog` or a path that starts with `/`"
        raise Wrong(("log",), message)
    for name in ("order", "allow_runtimes", "refuse_runtimes", "refuse"):
        texts(data, (name,))
    for table in ("images", "executables", "arguments", "defaults", "forced", "runtimes"):
        typed(data, (table,), dict, "a table")
    typed(data, ("rules",), list, "tables, each under [[rules]]")
    for name, path in data.get("executables", {}).items():
        if not isinstance(path, str) or not os.path.isabs(path):
            place = ("executables", name)
            raise Wrong(place, f"`{named(place)}` is {path!r}: expected an absolute path")
    for name in data.get("arguments", {}):
        texts(data["arguments"], ("arguments", name))
    for number, text in enumerate(data.get("refuse", [])):
        refusal(text, ("refuse", number))
    for table in ("defaults", "forced"):
        per_job(data.get(table, {}), (table,), NOT_FOR_JOBS)
    rules = [rule(given, ("rules", number)) for number, given in enumerate(data.get("rules", []))]
    runtimes = {name: defined(given, ("runtimes", name)) for name, given in data.get("runtimes", {}).items()}
    made = {"images": images(data.get("images", {})), "rules": rules, "runtimes": runtimes}
    return Site(**{**data, **made})


def images(given: dict[str, Any]) -> Images:
    known(given, tuple(attrs.fields_dict(Images)), ("images",))
    for key in ("cache", "store"):
        if not isinstance(given.get(key, ""), str) or not os.path.isabs(given.get(key) or "/"):
            place = ("images", key)
            raise Wrong(place, f"`{named(place)}` is {given[key]!r}: expected an absolute path")
    typed(given, ("images", "owner"), str, "a user's name")
    limit = given.get("limit", 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise Wrong(("images", "limit"), f"`images.limit` is {limit!r}: expected a number of GiB")
    return Images(**given)


def per_job(data: dict[str, Any], table: Place, without: dict[str, str]) -> None:
    """Checks what jobs get, by the names and values of the per-job settings but those in `without`,
    which says what to write instead. Whether a mount's source is there depends on the node."""
    known(data, settings.NAMES, table, without)
    for name, value in data.items():
        place = (*table, name)
        if name == "mounts":
            texts(data, place)
            for number, text in enumerate(value):
                mount(text, (*place, number))
            continue
        typed(data, place, str, "a text, as in SLURM_OCI_" + name.upper())
        if not value:
            raise Wrong(place, f"`{named(place)}` is empty", "leave it out: jobs have what is built in then")
        if name == "workdir" and not os.path.isabs(value):
            raise Wrong(place, f"`{named(place)}` is `{value}`: expected a path that starts with `/`")
        try:
            settings.combine([(NAME, {name: value})], "/")
        except Problem as problem:
            raise Wrong(place, problem.message, *problem.hints) from None


def mount(text: str, place: Place) -> None:
    try:
        settings.written_mount(text, f"`{named(place[:-1])}`", "/")
    except Problem as problem:
        raise Wrong(place, problem.message, *problem.hints) from None


def refusal(text: str, place: Place) -> None:
    name, equals, value = text.partition("=")
    if name in NOT_FOR_JOBS:
        raise Wrong(place, f"`refuse` has `{text}`, which has no effect there", NOT_FOR_JOBS[name])
    if name not in settings.NAMES:
        raise Wrong(
            place, f"`refuse` has `{text}`: there is no setting `{name}`" + meant(name, settings.NAMES)
        )
    choices = settings.CHOICES.get(name, ())
    if equals and name in ("mounts", "workdir"):
        raise Wrong(place, f"`refuse` has `{text}`: `{name}` can only be refused as a whole")
    if equals and choices and value not in choices:
        raise Wrong(place, f"`refuse` has `{text}`: `{name}` has no `{value}`" + meant(value, choices))


def rule(given: Any, place: Place) -> Rule:
    if not isinstance(given, dict):
        raise Wrong(place, f"`{named(place)}` is {given!r}: expected a table")
    known(given, (*RULE_KEYS, *settings.NAMES), place, NOT_BY_RULE)
    wanted = {key: value for key, value in given.items() if key not in RULE_KEYS}
    if not wanted:
        message = f"`{named(place)}` gives nothing: a rule has a `runtime`, or another setting of a job's"
        raise Wrong(place, message)
    per_job(wanted, place, NOT_BY_RULE)
    when = {
        key: [value] if isinstance(value, str) else value for key, value in given.items() if key in RULE_KEYS
    }
    for key in when:
        texts(when, (*place, key))
    for key, names in (("kind", tuple(KINDS)), ("step", STEPS)):
        for value in when.get(key, ()):
            if value not in names:
                raise Wrong((*place, key), f"`{named((*place, key))}` has `{value}`" + meant(value, names))
    return Rule(wanted, when)


def defined(given: Any, place: Place) -> Defined:
    if not isinstance(given, dict):
        raise Wrong(place, f"`{named(place)}` is {given!r}: expected a table")
    known(given, tuple(attrs.fields_dict(Defined)), place)
    typed(given, (*place, "summary"), str, "a text")
    for key in ("run", "accepts"):
        texts(given, (*place, key))
        if not given.get(key):
            raise Wrong(place, f"`{named((*place, key))}` is missing: expected a list of texts")
    for kind in given["accepts"]:
        if kind not in KINDS:
            where = (*place, "accepts")
            raise Wrong(where, f"`{named(where)}` has `{kind}`" + meant(kind, tuple(KINDS)))
    try:
        pattern.parse(given["run"])
    except Problem as problem:
        where = (*place, "run")
        raise Wrong(where, f"`{named(where)}`: {problem.message}", *problem.hints) from None
    program = given["run"][0]
    is_one = set(pattern.letters(program)) <= {"%"}
    if not is_one or not program or ("/" in program and not program.startswith("/")):
        where = (*place, "run")
        raise Wrong(
            where,
            f"`{named(where)}` begins with `{program}`: expected a program's name or absolute path, the same"
            " for every task",
            'begin with a program that takes the rest: run = ["env", "%r/bin/tool", "%@"]',
        )
    return Defined(**given)


def known(
    data: dict[str, Any], names: tuple[str, ...], place: Place, without: dict[str, str] | None = None
) -> None:
    """Checks the keys: `names` are allowed, but those in `without`, which says what to write instead."""
    without = without or {}
    for key in data:
        where = (*place, key)
        if key in without:
            raise Wrong(where, f"there is no `{named(where)}`", without[key])
        if key not in names:
            near = meant(key, tuple(name for name in names if name not in without))
            raise Wrong(where, f"there is no `{named(where)}`" + near)


def meant(word: str, names: tuple[str, ...]) -> str:
    near = nearest(word, names)
    return f"; did you mean `{near}`?" if near else f"; known are {', '.join(names)}"


def typed(data: dict[str, Any], place: Place, kind: type, expected: str) -> None:
    """Checks the type of the value for the last key of `place` in `data`, where there is one."""
    value = data.get(str(place[-1]), kind())
    if not isinstance(value, kind):
        raise Wrong(place, f"`{named(place)}` is {value!r}: expected {expected}")


def texts(data: dict[str, Any], place: Place) -> None:
    value = data.get(str(place[-1]), [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Wrong(place, f"`{named(place)}` is {value!r}: expected a list of texts")
