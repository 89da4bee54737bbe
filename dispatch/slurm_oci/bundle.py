"""What lies below an image that is a directory: its root file system, its config.json."""

import os

from slurm_oci import plainjson, problems
from slurm_oci.container import HOST
from slurm_oci.modules import content
from slurm_oci.rootfs import is_below
from slurm_oci.values import TYPE_CHECKING, Image, Mount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def opened(image: Image) -> Image:
    """`image` with its `root`, and for an oci-bundle its `config`. Raises ImageBroken."""
    if image.kind == "rootfs":
        return image.replace(root=image.path)
    path = os.path.join(image.path, "config.json")
    config = read_config(path)
    root = config.get("root")
    if not isinstance(root, dict) or not isinstance(root.get("path"), str):
        raise problems.ImageBroken(
            f"`{path}` has no root.path", "a bundle's config.json names its rootfs there"
        )
    folder = os.path.realpath(os.path.join(image.path, root["path"]))
    if not os.path.isdir(folder):
        raise problems.ImageBroken(
            f"`{path}` names the root `{root['path']}`: there is no directory `{folder}`",
            "`umoci unpack` or Slurm's guide make rootfs/ beside config.json: has it been moved or removed?",
        )
    return image.replace(root=folder, config=config)


def is_slurms(path: str, spool: str) -> bool:
    """Whether the bundle at `path` is one that Slurm made for the task from the user's own, as it
    does with IgnoreFileConfigJson=false: then its process holds the task's command and variables."""
    return os.path.isabs(spool) and is_below(os.path.normpath(path), os.path.normpath(spool))


def without_variables(image: Image) -> Image:
    process = {**image.config["process"], "env": []}
    return image.replace(config={**image.config, "process": process})


ENTRYPOINT = "slurm-oci.entrypoint"  # an annotation: how many words of process.args it has


def entrypoint(image: Image) -> tuple[str, ...]:
    """The entry point of an image that was unpacked, to be put before the command."""
    count = image.config.get("annotations", {}).get(ENTRYPOINT, "0")
    return tuple(image.config["process"].get("args", ())[: int(count)])


def own_mounts(image: Image) -> tuple[Mount, ...]:
    """The bind mounts that the bundle's config.json asks for, but for the kernel's file systems."""
    found = []
    for mount in image.config.get("mounts", []):
        target = os.path.normpath(mount["destination"])
        if is_bind(mount) and not any(is_below(target, folder) for folder in HOST):
            source = os.path.normpath(os.path.join(image.path, mount.get("source", "")))
            readonly = "ro" in mount.get("options", [])
            found.append(Mount(source, target, readonly, True, "the bundle's config.json"))
    return tuple(found)


def is_bind(mount: "Mapping[str, Any]") -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options", [])))


def read_config(path: str) -> "dict[str, Any]":
    """The config.json at `path`, any bytes in its texts kept. Raises ImageBroken."""
    try:
        config = plainjson.loads(os.fsdecode(content(path)))
    except OSError as error:
        raise problems.ImageBroken(
            f"cannot read `{path}`: {error.strerror}",
            "its owner must let you read it: `chmod a+r config.json`",
        ) from None
    except (ValueError, RecursionError) as error:
        raise problems.ImageBroken(
            f"`{path}` is not valid JSON: {error}", "`python3 -m json.tool config.json` shows the place"
        ) from None
    if not isinstance(config, dict):
        raise problems.ImageBroken(
            f"`{path}` is not a JSON object", "`runc spec` writes a config.json to compare with"
        )
    process = config.setdefault("process", {})
    lists = [process.get("args", []), process.get("env", [])] if isinstance(process, dict) else [0]
    for texts in lists:
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise problems.ImageBroken(
                f"`{path}`: process.args and process.env must be lists of texts",
                "`runc spec` writes a config.json to compare with",
            )
    mounts = config.get("mounts", [])
    if not isinstance(mounts, list) or not all(
        isinstance(mount, dict) and isinstance(mount.get("destination"), str) for mount in mounts
    ):
        raise problems.ImageBroken(
            f"`{path}`: mounts must be a list of objects, each with a destination",
            "`runc spec` writes a config.json to compare with",
        )
    return config
