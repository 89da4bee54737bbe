"""Environment definitions: a TOML file given as `--container=/path/env.toml`.

The keys are those of CSCS's environment definition files (EDF), where they mean the same, and our
own settings. Source: the EDF reference in CSCS's documentation of its Container Engine; where we
differ is listed in docs/definitions.md.
"""

import os
import re
import stat
import tomllib

from slurm_oci import problems
from slurm_oci.container import IMAGES_OWN
from slurm_oci.image import absolute, classify
from slurm_oci.positions import Positions
from slurm_oci.problems import nearest
from slurm_oci.secret import is_secret
from slurm_oci.settings import CHOICES, split
from slurm_oci.values import TYPE_CHECKING, Job, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from slurm_oci.positions import Place
    from slurm_oci.values import Step

TEXTS = ("image", "runtime", "workdir")
SWITCHES = {  # what false and true mean
    "writable": ("no", "tmp"),
    "entrypoint": ("no", "yes"),
    "slurm": ("no", "yes"),
}
PROFILE = "env_profile"  # the setting `env`, since `[env]` is a table of variables here
CHOSEN = tuple(name for name in CHOICES if name not in (*SWITCHES, "env", "user_hook", "debug"))
KEYS = ("base_environment", *TEXTS, *SWITCHES, *CHOSEN, PROFILE, "mounts", "env", "annotations")

LEVELS = 10  # of base environments below one another, as in EDF
LARGEST = 1 << 16  # bytes: a file that is larger is something else

MOUNT_FLAGS = ("ro", "rw")
REFUSED_FLAGS = {
    "sqsh": "a squashfs file cannot be mounted into a container here; unpack it, or make it the image",
    **dict.fromkeys(
        (kind + name for kind in ("", "r") for name in ("private", "slave", "shared", "unbindable")),
        "how mounts propagate is the runtime's own affair here; leave it out",
    ),
}
# `$$`, `${NAME}`, `${NAME:-text}`, and the beginning of what is none of them.
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\{)")


class Definition(Value):
    """What a definition and its base environments say together."""

    image: str
    layers: "tuple[tuple[str, Mapping[str, Any]], ...]"  # for settings.combine, the lowest first
    steps: "tuple[Step, ...]"  # for the decision trace


class File(Value):
    """One file of a definition, read and not yet understood."""

    path: str
    data: "Mapping[str, Any]"
    positions: Positions

    def at(self, *place: "str | int") -> str:
        return f"{self.path}:{self.positions[place]}"


def read(path: str, job: Job) -> Definition:
    """The definition in the file at `path`, with what it inherits.

    `${NAME}` is a variable of the job; relative paths start at the job's directory.

    Raises SettingInvalid, with file and line, and what `image.classify` raises.
    """
    image, where = "", path
    variables: dict[str, str] = {}
    annotations: dict[str, tuple[str, str]] = {}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    steps: list[Step] = []
    for file, level in family(path, job, "", ()):
        reader = Reader(file, job)
        steps.append(("definition", file.path, f"a base environment, level {level}" if level else "read"))
        for key in file.data:
            if key == "image":
                image, where = reader.image() or image, file.at(key)
            elif key == "env":
                variables |= reader.variables()
                layers.append((f"`env` in {file.at(key)}", {"variables": dict(variables)}))
            elif key == "annotations":
                annotations |= reader.annotations()
            elif key != "base_environment":
                layers += reader.layers(key)
    refuse_annotations(annotations)
    if not image:
        raise problems.SettingInvalid(
            f"`{path}` names no image", 'it needs a line like: image = "/path/to/image.sqsh"'
        )
    if image.endswith(".toml") and classify(image, job.cwd).kind == "environment":
        raise problems.SettingInvalid(
            f"{where}: the image `{image}` is itself an environment definition",
            f'to inherit from it: base_environment = "{absolute(image, job.cwd)}"',
        )
    steps.append(("definition", image, f"the image, from {where}"))
    return Definition(image, tuple(layers), tuple(steps))


def family(path: str, job: Job, named_in: str, above: tuple[str, ...]) -> "Iterator[tuple[File, int]]":
    """The file at `path` after all that it inherits from, in the order in which they count, each with
    its level. `above`: the files whose bases they are."""
    chain = (*above, os.path.realpath(path))
    if chain[-1] in above:
        raise problems.SettingInvalid(
            f"{named_in}: `base_environment` leads back to `{path}`", "inherited from: " + " -> ".join(chain)
        )
    if len(above) > LEVELS:
        raise problems.SettingInvalid(
            f"{named_in}: more than {LEVELS} levels of `base_environment`",
            "let it name fewer files below one another, or write their keys into one",
        )
    file = opened(path, named_in)
    reader = Reader(file, job)
    reader.check_keys()
    for base, where in reader.bases():
        yield from family(base, job, where, chain)
    yield file, len(above)


def opened(path: str, named_in: str) -> File:
    """Raises SettingInvalid for what cannot be read or is not valid TOML."""
    said = f"{named_in}: cannot read the base environment" if named_in else "cannot read"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            reason = f"it is larger than {LARGEST} bytes" if status.st_size > LARGEST else "it is no file"
            raise problems.SettingInvalid(
                f"{said} `{path}`: {reason}", "name a TOML file with an image and settings"
            )
        with open(path, "rb") as file:
            text = os.fsdecode(file.read())
    except OSError as error:
        raise problems.SettingInvalid(
            f"{said} `{path}`: {error.strerror}", f"try `ls -l {path}` on this node"
        ) from None
    try:
        return File(path, tomllib.loads(text), Positions(text))
    except RecursionError:
        raise problems.SettingInvalid(
            f"`{path}` is nested too deeply to be read", "a definition has tables of one level, as `[env]`"
        ) from None
    except ValueError as error:  # also for a number of thousands of digits
        found = re.search(r" \(at line (\d+), (column \d+)\)", str(error))
        line = found[1] if found else text.count("\n") + 1
        reason = str(error).replace(found[0], f" ({found[2]})") if found else str(error)
        raise problems.SettingInvalid(
            f"{path}:{line}: not valid TOML: {reason}", "see toml.io for the format"
        ) from None


class Reader:
    """Understands the keys of one file. Everything here raises SettingInvalid."""

    def __init__(self, file: File, job: Job) -> None:
        self.file = file
        self.job = job

    def check_keys(self) -> None:
        for key in self.file.data:
            if key in ("user_hook", "debug"):
                name = f"SLURM_OCI_{key.upper()}"
                raise problems.SettingInvalid(
                    f"{self.file.at(key)}: `{key}` can be set in the job's environment alone", f"{name}=…"
                )
            if key not in KEYS:
                near = nearest(key, KEYS)
                meant = f"did you mean `{near}`?" if near else f"known are {', '.join(KEYS)}"
                raise problems.SettingInvalid(
                    f"{self.file.at(key)}: `{key}` is not supported in an environment definition", meant
                )

    def bases(self) -> list[tuple[str, str]]:
        """The path of each base environment, and where it is named."""
        value = self.file.data.get("base_environment", [])
        if isinstance(value, str):
            return [self.base("base_environment")]
        self.require(value, list, "a text or a list of texts", "base_environment")
        return [self.base("base_environment", number) for number in range(len(value))]

    def base(self, *place: "str | int") -> tuple[str, str]:
        """A path, if there is a `/` in it, else a name in EDF's search path."""
        name, where = self.text(*place), self.file.at(*place)
        if "/" in name:
            return absolute(name, self.job.cwd), where
        places = self.job.env.get("EDF_PATH") or os.path.join(self.job.home, ".edf")
        folders = [folder for folder in places.split(":") if folder.startswith("/")]
        for folder in folders:
            if os.path.isfile(f"{folder}/{name}.toml"):
                return f"{folder}/{name}.toml", where
        stem = name.removesuffix(".toml") or "env"
        raise problems.SettingInvalid(
            f"{where}: no environment definition is called `{name}` in {', '.join(folders)}",
            f"`{stem}` is looked for as {stem}.toml in EDF_PATH, or else in ~/.edf;"
            f" a path has a `/` in it: ./{stem}.toml",
        )

    def layers(self, key: str) -> "list[tuple[str, Mapping[str, Any]]]":
        """The settings that `key` makes, each under the place that an error or `explain` shall name."""
        value = self.file.data[key]
        if key == "mounts":
            self.require(value, list, "a list of texts", key)
            places = [(key, number) for number in range(len(value))]
            return [(self.file.at(*place), {key: [self.mount(*place)]}) for place in places]
        if key in SWITCHES and isinstance(value, bool):
            return [(self.file.at(key), {key: SWITCHES[key][value]})]
        name = "env" if key == PROFILE else key
        return [(f"`{key}` in {self.file.at(key)}", {name: self.text(key)})]

    def image(self) -> str:
        """The image as it would be named after --container. EDF's `registry#image` is translated."""
        text = self.text("image")
        registry, sign, name = text.removeprefix("docker://").partition("#")
        if not sign or not re.fullmatch(r"[^/]*[.:@][^/]*|localhost", registry):
            return text
        if "@" in registry:
            raise problems.SettingInvalid(
                f"{self.file.at('image')}: `{text}` names a user of the registry",
                "leave it out: who you are there belongs into the runtime's own file of credentials",
            )
        return f"docker://{registry}/{name}"

    def mount(self, *place: "str | int") -> str:
        """A mount as settings.combine takes it: of EDF's flags, joined by `+`, those that we know."""
        text = self.text(*place)
        parts = split(text, ":")
        if len(parts) != 3:
            return text
        flags = parts[2].split("+")
        for flag in flags:
            if flag not in MOUNT_FLAGS:
                why = REFUSED_FLAGS.get(flag, f"known are {', '.join(MOUNT_FLAGS)}")
                raise problems.SettingInvalid(
                    f"{self.file.at(*place)}: the mount `{text}` has the flag `{flag}`: not supported", why
                )
        if len(set(flags)) > 1:
            raise problems.SettingInvalid(
                f"{self.file.at(*place)}: the mount `{text}` is both `ro` and `rw`",
                "keep the one that is meant",
            )
        return ":".join([*parts[:2], flags[0]])

    def variables(self) -> dict[str, str]:
        """An empty text takes the job's variable away."""
        table = self.file.data["env"]
        hint = f"for which of the job's variables are passed on: {PROFILE}"
        self.require(table, dict, "a table of texts", "env", hint=hint)
        for name in table:
            if not name or "=" in name or "\0" in name:
                raise problems.SettingInvalid(
                    f"{self.file.at('env', name)}: no variable can be called `{name}`",
                    "a name is not empty and holds no `=`",
                )
        return {name: self.text("env", name) for name in table}

    def annotations(self) -> dict[str, tuple[str, str]]:
        """Each one's value and where it is set, by the dotted name."""
        table = self.file.data["annotations"]
        self.require(table, dict, "a table of texts", "annotations")
        return {
            ".".join(map(str, place[1:])): (self.text(*place), self.file.at(*place))
            for place in leaves(table, ("annotations",))
        }

    def text(self, *place: "str | int") -> str:
        """The text at `place`, its variables replaced."""
        value: Any = self.file.data
        for key in place:
            value = value[key]
        expected = "true, false or a text" if place[0] in SWITCHES else "a text"
        text: str = self.require(value, str, expected, *place)
        text = VARIABLE.sub(lambda found: self.variable(found, self.file.at(*place)), text)
        if "\0" in text:
            raise problems.SettingInvalid(
                f"{self.file.at(*place)}: a NUL cannot stand in a path or a variable",
                "leave out the `\\u0000`",
            )
        return text

    def variable(self, found: "re.Match[str]", where: str) -> str:
        """What stands for one `${NAME}`."""
        if found[1]:
            return "$"
        if not found[2]:
            raise problems.SettingInvalid(
                f"{where}: `${{` without the name of a variable and `}}`", "`$${` stands for `${` itself"
            )
        name, default = found[2], found[4]
        if name in IMAGES_OWN:
            raise problems.SettingInvalid(
                f"{where}: `{found[0]}` is not supported: the image has its own `{name}`, not known yet",
                f"write it in full, or set {name} in the command: env {name}=… COMMAND",
            )
        value = self.job.env.get(name, "")
        if name not in self.job.env and default is None:
            raise problems.SettingInvalid(
                f"{where}: the job has no variable `{name}`",
                f"`${{{name}:-}}` is empty where there is none; `$${{{name}}}` is not replaced",
            )
        return value or default or ""

    def require(self, value: "Any", kind: type, expected: str, *place: "str | int", hint: str = "") -> "Any":
        if isinstance(value, kind):
            return value
        is_shown = len(repr(value)) < 80 and not is_secret(str(place[-1]))
        shown = repr(value) if is_shown else f"of type {type(value).__name__}"
        name = ".".join(str(key) for key in place if isinstance(key, str))
        number = f" (element {place[-1] + 1})" if isinstance(place[-1], int) else ""
        example = f"as in: {self.example(value, *place)}"
        raise problems.SettingInvalid(
            f"{self.file.at(*place)}: `{name}`{number} is {shown}: expected {expected}",
            example,
            *filter(None, [hint]),
        )

    def example(self, value: "Any", *place: "str | int") -> str:
        """How the key at `place` is written, with what can be kept of `value`."""
        key = str(place[0])
        if key in SWITCHES:
            return f"{key} = true"
        if key in ("env", "annotations"):
            plain = str(value).lower() if isinstance(value, bool) else value
            is_shown = isinstance(plain, str | int | float) and not is_secret(str(place[-1]))
            text = plain if is_shown else "text"
            return f'[{key}] and below it {".".join(map(str, place[1:])) or "NAME"} = "{text}"'
        texts = {"mounts": "/data:/data:ro", "workdir": "/work", "image": "/path/to/image.sqsh"}
        text = next((one for one in (value, *leading(value)) if isinstance(one, str)), "")
        text = (
            text
            or texts.get(key)
            or next(iter(CHOICES.get(key, ())), "crun" if key == "runtime" else "./base.toml")
        )
        listed = key == "mounts" or (key == "base_environment" and len(place) > 1)
        return f'{key} = ["{text}"]' if listed else f'{key} = "{text}"'


def leading(value: "Any") -> "list[Any]":
    """The first element of a list."""
    return value[:1] if isinstance(value, list) else []


def leaves(table: "Mapping[str, Any]", place: "Place") -> "Iterator[Place]":
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, key))
        else:
            yield (*place, key)


def refuse_annotations(annotations: "Mapping[str, tuple[str, str]]") -> None:
    """Annotations switch hooks of CSCS's engine on and off, and we have none of those: only to switch
    one off asks for nothing."""
    for name, (value, where) in annotations.items():
        if not (re.fullmatch(r"com\.hooks\.[^.]+\.enabled", name) and value.lower() == "false"):
            raise problems.SettingInvalid(
                f"{where}: the annotation `{name}` is not supported: nothing here acts on it",
                'leave it out; of annotations only `com.hooks.NAME.enabled = "false"` is accepted',
                'what some of those hooks do is a setting here: `slurm = true`, `gpu = "nvidia"`, `mounts`',
            )
