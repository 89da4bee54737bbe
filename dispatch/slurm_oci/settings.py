"""What job, environment definition and site ask for, laid over one another.

Every layer speaks the same names: `SLURM_OCI_WORKDIR` in the job's environment, `workdir` in an
environment definition and under `[defaults]` in site.toml. Mounts add up; of everything else the
later layer wins: built-in, site, definition, job.
"""

import os

from slurm_oci import problems
from slurm_oci.problems import nearest
from slurm_oci.values import TYPE_CHECKING, Mount, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

PREFIX = "SLURM_OCI_"
CHOICES = {
    "home": ("bind", "none"),
    "env": ("job", "slurm", "all", "none"),
    "writable": ("no", "tmp", "yes"),
    "entrypoint": ("no", "yes"),
    "gpu": ("auto", "nvidia", "amd", "none"),
    "slurm": ("no", "yes"),
    "share": ("task", "node"),
    "command": ("as-given", "in-image"),
    "user_hook": ("yes", "no"),
    "debug": ("0", "1"),
}
TEXTS = ("runtime", "workdir", "mounts")
NAMES = (*TEXTS, *CHOICES)


def of_job(env: "Mapping[str, str]") -> tuple[dict[str, str], list[str]]:
    """The settings in the job's environment, and a warning for each name that is none."""
    known = {PREFIX + name.upper(): name for name in NAMES}
    found, warnings = {}, []
    for variable in env:
        if not variable.startswith(PREFIX):
            continue
        if variable in known:
            found[known[variable]] = env[variable]
        else:
            near = nearest(variable.removeprefix(PREFIX).lower(), NAMES)
            meant = f"; did you mean `{PREFIX}{near.upper()}`?" if near else ""
            warnings.append(f"`{variable}` is no setting of this version{meant}")
    return found, warnings


def combine(layers: "Iterable[tuple[str, Mapping[str, Any]]]", cwd: str) -> Settings:
    """The settings that `layers`, (where it comes from, its values) from the lowest to the
    highest, make together. Where it comes from is `job`, a file, or for a single value all that
    an error shall say of it. `cwd`: what relative mount sources start from.

    Raises SettingInvalid.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    mounts: list[Mount] = []
    lost: list[tuple[str, Any, str]] = []
    for origin, layer in layers:
        for name, value in layer.items():
            label = origin if origin.startswith("`") else f"`{name}` in {origin}"
            if origin == "job":
                label = PREFIX + name.upper()
            if value == "":
                continue  # an empty variable asks for nothing
            elif name == "mounts":
                mounts += read_mounts(value, label, cwd)
            elif name in CHOICES and value not in CHOICES[name]:
                from slurm_oci import advice

                raise advice.wrong_value(label, value, CHOICES[name])
            elif name == "workdir" and not value.startswith("/"):
                raise problems.SettingInvalid(
                    f"{label} is `{value}`: expected a path that starts with `/`",
                    f"in the job's directory it is `{os.path.join(cwd, value)}`",
                )
            else:
                if name in values:
                    lost.append((name, values[name], origins[name]))
                values[name] = value
            origins[name] = label
    return Settings(**{**values, "mounts": tuple(mounts), "origins": origins, "lost": tuple(lost)})


def read_mounts(value: "str | Iterable[str]", label: str, cwd: str) -> list[Mount]:
    """The mounts in `src:dst[:ro]`, separated by comma or newline; `\\` takes the next character as it is.

    Raises SettingInvalid.
    """
    texts = split(value, ",\n") if isinstance(value, str) else value
    return [read_mount(text, label, cwd) for text in texts if text]


def read_mount(text: str, label: str, cwd: str) -> Mount:
    mount = written_mount(text, label, cwd)
    if not os.path.exists(mount.source):
        from slurm_oci.image_problems import left_as_written

        hint = "is it misspelt, or only on the host that the job was submitted from?"
        if text != text.strip():
            hint = "no blanks belong between the mounts"
        raise problems.SettingInvalid(
            f"{label} has the mount `{text}`: there is no `{mount.source}` on this node",
            *(left_as_written(text) or [hint]),
        )
    return mount


def written_mount(text: str, label: str, cwd: str) -> Mount:
    """The mount that `text` says, whether its source is there or not."""
    parts = [unescape(part) for part in split(text, ":")]
    how = "a mount is written SOURCE:TARGET or SOURCE:TARGET:ro; in a path, write `\\:` and `\\,`"
    if len(parts) not in (2, 3) or not all(parts):
        raise problems.SettingInvalid(f"{label} has the mount `{text}`: expected two or three parts", how)
    if parts[2:] not in ([], ["ro"], ["rw"]):
        raise problems.SettingInvalid(f"{label} has the mount `{text}`: `{parts[2]}` is no flag", how)
    source = os.path.normpath(os.path.join(cwd, parts[0]))
    if not parts[1].startswith("/"):
        raise problems.SettingInvalid(f"{label} has the mount `{text}`: its target must start with `/`", how)
    target = "/" + os.path.normpath(parts[1]).lstrip("/")  # two slashes at the start would stay
    if target == "/":
        raise problems.SettingInvalid(
            f"{label} has the mount `{text}`: its target is the root directory, which the image is", how
        )
    return Mount(source, target, parts[2:] == ["ro"], True, label)


def split(text: str, separators: str) -> list[str]:
    """`text` cut at each of `separators` that no `\\` precedes; the escapes stay."""
    pieces, start, i = [], 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in separators:
            pieces.append(text[start:i])
            start = i + 1
        i += 1
    return [*pieces, text[start:]]


def unescape(text: str) -> str:
    out, signs = "", iter(text)
    for sign in signs:
        out += next(signs, "\\") if sign == "\\" else sign
    return out
