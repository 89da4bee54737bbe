"""What this node's CDI files (Container Device Interface) describe: the devices of a vendor, with the
driver files and variables that a container needs for them.

The files of /var/run/cdi count before those of /etc/cdi (CDI specification, SPEC.md). JSON is read by
each task that has GPUs. YAML needs a library, and a task imports none: `slurm-oci-plugins compile`
keeps in the catalog what such a file holds, and that is used for as long as the file stays the same.
"""

import os

from slurm_oci import catalog, modules
from slurm_oci.problems import SettingRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Spec = dict[str, Any]
    # By a YAML file's path, what the catalog keeps of it: its signature before it was read, its content.
    Kept = dict[str, tuple[modules.Signature, Spec]]

FOLDERS = ("/var/run/cdi", "/etc/cdi")
AS_JSON = "nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json"
MADE_BY = {"nvidia": AS_JSON, "amd": "amd-ctk cdi generate --output=/etc/cdi/amd.json"}
KEEP = f"`slurm-oci-plugins compile` on this node, or without YAML: {AS_JSON}"  # the cure for not_kept


def files(*suffixes: str) -> "Iterator[str]":
    """The paths of the files that end so, those that count first before."""
    for folder in FOLDERS:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if name.endswith(suffixes):
                yield os.path.join(folder, name)


def specs(prefix: str) -> "tuple[dict[str, Spec], list[str]]":
    """What the files describe, by their paths, and the YAML files of which the catalog in `prefix` does
    not hold what is in them now. Raises SettingRefused for a JSON file that describes nothing."""
    found, unknown = {}, []
    kept: Kept | None = None
    for path in files(".json", ".yaml"):
        if path.endswith(".json"):
            found[path] = from_json(path)
            continue
        if kept is None:
            known = catalog.read(prefix)
            # Without a catalog the plugins are asked, by libraries too: then so are these files.
            kept = known["cdi"] if known else read_yaml()
        signature, spec = kept.get(path, (None, {}))
        if spec and modules.is_same(signature, path):
            found[path] = spec
        else:
            unknown.append(path)
    return found, unknown


def not_kept(path: str) -> str:
    """What is wrong with one of the latter."""
    return f"the catalog does not hold what `{path}` says of devices: it is newer, or of another node"


def from_json(path: str) -> "Spec":
    """What the file describes. Raises SettingRefused."""
    import json  # few tasks have GPUs

    try:
        return checked(json.loads(modules.content(path)))
    except (OSError, ValueError) as error:
        raise SettingRefused(
            f"cannot read `{path}`, which describes devices: {error}", "SLURM_OCI_GPU=none does without"
        ) from None


def read_yaml(warn: "Callable[[str], None] | None" = None) -> "Kept":
    """What the YAML files hold, for the catalog. One that cannot be read is left out, and `warn` told."""
    kept = {}
    for path in files(".yaml"):
        signature = modules.signature(path)
        try:
            kept[path] = signature, from_yaml(path)
        except (OSError, ImportError, ValueError) as error:
            if warn:
                warn(f"`{path}`, which describes devices, cannot be read: {error}")
    return kept


def from_yaml(path: str) -> "Spec":
    """What the file describes, as plain data. Raises OSError, ImportError, ValueError."""
    import json

    import yaml  # not on a task's path

    try:
        spec = yaml.load(modules.content(path), yaml.SafeLoader)
        return checked(json.loads(json.dumps(spec)))  # neither dates nor loops
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def checked(spec: "Any") -> "Spec":
    """`spec`, which describes devices by their names, each with edits of the container that can be done.
    Raises ValueError."""
    devices = spec.get("devices") if isinstance(spec, dict) else None
    if not isinstance(devices, list):
        raise ValueError("it has no list `devices`")
    if not all(isinstance(device, dict) and isinstance(device.get("name"), str) for device in devices):
        raise ValueError("a device in it has no `name` that is a text")
    for each in (spec, *devices):
        edits = each.get("containerEdits") or {}
        if not isinstance(edits, dict):
            raise ValueError("a `containerEdits` in it is no object")
        if not are_texts(edits.get("env")):
            raise ValueError("an `env` in it is no list of texts")
        mounts = edits.get("mounts") or []
        if not isinstance(mounts, list) or not all(map(is_mount, mounts)):
            raise ValueError("a `mounts` in it is no list of objects with `hostPath` and `containerPath`")
    return dict(spec)


def is_mount(mount: "Any") -> bool:
    return (
        isinstance(mount, dict)
        and all(isinstance(mount.get(path), str) for path in ("hostPath", "containerPath"))
        and mount["containerPath"].startswith("/")
        and are_texts(mount.get("options"))
    )


def are_texts(value: "Any") -> bool:
    """Whether it is a list of texts; `null` is an empty one, as to Go's reader of JSON."""
    return value is None or (isinstance(value, list) and all(isinstance(text, str) for text in value))
