"""Environment definitions: a TOML file given as `--container=/path/env.toml`."""

import os
import tomllib

from slurm_oci.problems import SettingInvalid, nearest
from slurm_oci.settings import CHOICES
from slurm_oci.values import TYPE_CHECKING, Value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TEXTS = ("image", "runtime", "workdir")
SWITCHES = {"writable": ("no", "tmp"), "entrypoint": ("no", "yes")}  # what false and true mean
CHOSEN = tuple(name for name in CHOICES if name not in (*SWITCHES, "env", "user_hook", "debug"))
KEYS = (*TEXTS, *SWITCHES, *CHOSEN, "mounts", "env")


class Definition(Value):
    """What the file says: the image, and settings under the per-job settings' names."""

    image: str
    settings: "Mapping[str, Any]"


def read(path: str) -> Definition:
    """The definition in the file at `path`. Raises SettingInvalid, with file and line."""
    try:
        with open(path, "rb") as file:
            text = os.fsdecode(file.read())
        data = tomllib.loads(text)
    except OSError as error:
        raise SettingInvalid(f"cannot read `{path}`: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingInvalid(f"`{path}` is not valid TOML: {error}") from None
    settings: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{path}:{line_of(key, text)}"
        if key not in KEYS:
            near = nearest(key, KEYS)
            meant = f"did you mean `{near}`?" if near else f"known are {', '.join(KEYS)}"
            raise SettingInvalid(f"{where}: `{key}` is not supported in an environment definition", meant)
        if key == "env":
            settings["variables"] = checked(value, dict, f"{where}: `{key}`", "a table of texts")
        elif key == "mounts":
            settings[key] = checked(value, list, f"{where}: `{key}`", "a list of texts")
        elif key in SWITCHES and isinstance(value, bool):
            settings[key] = SWITCHES[key][value]
        else:
            settings[key] = checked(value, str, f"{where}: `{key}`", "a text")
    image = settings.pop("image", "")
    if not image:
        raise SettingInvalid(
            f"`{path}` names no image", 'it needs a line like: image = "/path/to/image.sqsh"'
        )
    return Definition(image, settings)


def checked(value: "Any", kind: type, name: str, expected: str) -> "Any":
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(text, str) for text in inner):
        raise SettingInvalid(f"{name} is {value!r}: expected {expected}")
    return value


def line_of(key: str, text: str) -> int:
    """The line that sets `key`, or begins the table of that name."""
    for number, line in enumerate(text.splitlines(), 1):
        start = line.strip().strip("[").strip().strip("\"'")
        if start.startswith(key) and start[len(key) :].lstrip("\"' ")[:1] in ("=", "]", "."):
            return number
    return 1
