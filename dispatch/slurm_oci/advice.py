"""What to do about a refusal, where finding that out takes some looking. Imported only then."""

import os

from slurm_oci import catalog as catalogs
from slurm_oci import problems
from slurm_oci.choose import allowed
from slurm_oci.image_problems import nearby
from slurm_oci.problems import nearest
from slurm_oci.values import TYPE_CHECKING, Image, Job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_oci.problems import Problem

OTHERWISE = {"1": "yes", "on": "yes", "true": "yes", "0": "no", "off": "no", "false": "no"}


def schemes() -> list[str]:
    """Of the registries that something of ours can fetch from."""
    from slurm_oci import importers

    return list(dict.fromkeys(scheme for one in importers.TABLE for scheme in one.schemes))


def none_takes(
    image: Image, job: Job, catalog: "Mapping[str, Any]", passed_over: "Mapping[str, str]"
) -> "Problem":
    """No runtime is left for the image: all of them, and why each was passed over."""
    refused = [name for name in catalog["order"] if not allowed(name, catalog["site"])]
    unfit = [name for name in catalog["order"] if name not in passed_over and name not in refused]
    why = [f"{name}: {found}" for name, found in passed_over.items()]
    if unfit:
        why.append(f"{', '.join(unfit)}: no images of kind {image.kind}")
    if refused:
        why.append(f"{', '.join(refused)}: not allowed by site.toml")
    if image.kind == "name":
        return problems.RuntimeNone(
            f"no container runtime on this node has a store of its own to look for `{image.name}` in",
            f"an image in a registry is written `docker://{image.name.removeprefix('docker:')}`,"
            f" a file or a directory by its path: `./{image.name}`",
            *[hint for hint in nearby(os.path.join(job.cwd, image.name)) if hint.startswith("did you")],
            *why,
        )
    return problems.RuntimeNone(
        f"no container runtime on this node takes `{image.name}`, of kind {image.kind}",
        *unpacked(image),
        *why,
    )


def of_scheme(image: Image) -> list[str]:
    """What to write instead of a scheme that nothing knows."""
    scheme, _, rest = image.name.partition("://")
    near = nearest(scheme, schemes())
    known = ", ".join(f"`{one}://`" for one in schemes())
    meant = [f"did you mean `{near}://{rest}`?"] if near else []
    return [
        *meant,
        f"known are {known}; what lies elsewhere is fetched where you log in, and named by its path",
    ]


def unpacked(image: Image) -> list[str]:
    if image.kind == "reference" and image.name.partition("://")[0] not in schemes():
        return of_scheme(image)
    if image.kind in ("rootfs", "oci-bundle"):
        return ["ask the site for a runtime that takes it: why each does not stands below"]
    return [
        "unpacked, as a directory or a bundle, it runs anywhere; or ask the site for a runtime that takes it"
    ]


def pull_refused(image: Image) -> "Problem":
    """The image lies in a registry, and nothing here may fetch it."""
    if image.name.partition("://")[0] not in schemes():
        return problems.PullRefused(
            f"`{image.name}` is in no kind of registry that is known here, and this site fetches nothing in"
            " jobs",
            *of_scheme(image),
        )
    from slurm_oci import importers

    scheme, _, rest = image.name.partition("://")
    stem = rest.rpartition("/")[2].partition("@")[0].partition(":")[0] or "image"
    commands = {
        "apptainer": (f"{stem}.sif", f"apptainer pull {stem}.sif {image.name}"),
        "enroot": (f"{stem}.sqsh", f"enroot import -o {stem}.sqsh {importers.enroots_name(image.name)}"),
        "skopeo+umoci": (f"{stem}.tar", f"skopeo copy {image.name} oci-archive:{stem}.tar"),
    }
    able = [way for name, way in commands.items() if scheme in importers.by_name(name).schemes]
    each = ", ".join(f"`{command}`" for _, command in able)
    return problems.PullRefused(
        f"`{image.name}` would be fetched from a registry, which this site does not allow in jobs",
        f"make a file of it where you log in, with what is there: {each}; and name that:"
        f" `--container=$PWD/{able[0][0]}`",
        "the site: `pull = true` in site.toml allows it",
    )


def not_carried(
    label: str, wish: str, name: str, image: Image, catalog: "Mapping[str, Any]", prefix: str
) -> "Problem":
    """The runtime cannot do what somebody asked for: which others could, for this kind of image."""
    able = []
    for other in dict.fromkeys(other for other, *_ in catalog["candidates"].get(image.kind, ())):
        try:
            if wish in catalogs.load(other, catalog, prefix).carries:
                able.append(other)
        except problems.Problem:  # a broken plugin is another story
            continue
    if able:
        return problems.SettingRefused(
            f"{label} asks for `{wish}`, which `{name}` cannot do",
            f"for images of kind {image.kind} these can: {', '.join(able)} (SLURM_OCI_RUNTIME={able[0]};"
            " `slurm-oci-plugins list` shows which are on the node)",
        )
    return problems.SettingRefused(
        f"{label} asks for `{wish}`, which `{name}` cannot do",
        f"no runtime can for images of kind {image.kind}: leave it out, or use another kind of image"
        f" (`slurm-oci-plugins show {name}` lists what it can)",
    )


def wrong_value(label: str, value: str, choices: tuple[str, ...]) -> "Problem":
    near = nearest(value, choices) or nearest(OTHERWISE.get(value.lower(), ""), choices)
    expected = " or ".join(f"`{choice}`" for choice in choices)
    return problems.SettingInvalid(
        f"{label} is `{value}`: expected {expected}",
        f"did you mean `{near}`?" if near else f"leave it out for `{choices[0]}`, the default",
    )
