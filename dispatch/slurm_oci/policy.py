"""What a site forces on all jobs and what it refuses them: site.toml's `forced` and `refuse`.

Convenience, no boundary: it holds for those who come through the entry point.
"""

from slurm_oci import problems
from slurm_oci.settings import PREFIX, combine, read_mounts
from slurm_oci.values import TYPE_CHECKING, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from slurm_oci.values import Mount

    Layer = tuple[str, Mapping[str, Any]]

FORCED = "[forced] of site.toml"  # as the origin of a setting
OTHERWISE = "ask the site, or leave it out; `slurm-oci-plugins site` shows what is in force"


def combined(site: "Mapping[str, Any]", layers: "Iterable[Layer]", cwd: str) -> Settings:
    """What `settings.combine` gives for site.toml's defaults, `layers` (of the definition and the job)
    and what the site forces. Raises SettingRefused for what no job may ask for, and SettingInvalid."""
    layers = tuple(layers)
    for origin, layer in layers:
        for name, value in layer.items():
            label = PREFIX + name.upper() if origin == "job" else f"`{name}` in {origin}"
            if value == "":
                continue
            if is_refused(name, value, site):
                raise problems.SettingRefused(
                    f"{label} is `{shown(value)}`, which this site refuses (`refuse` in site.toml)", OTHERWISE
                )
            if name != "mounts" and value != site["forced"].get(name, value):
                raise problems.SettingRefused(
                    f"{label} is `{shown(value)}`: this site has `{site['forced'][name]}` for all jobs",
                    OTHERWISE,
                )
    forced = read_mounts(site["forced"].get("mounts", ()), f"`mounts` in {FORCED}", cwd)
    wanted = combine([("site.toml", site["defaults"]), *layers, (FORCED, site["forced"])], cwd)
    refuse_mounts_over(forced, wanted)
    return wanted


def is_refused(name: str, value: "Any", site: "Mapping[str, Any]") -> bool:
    """Whether `refuse` names the setting with this value, or without any: then everything is refused but
    what holds for those who do not ask."""
    if name not in Settings.fields or name == "variables":
        return False
    usual = site["defaults"].get(name, getattr(Settings, name))
    return f"{name}={value}" in site["refuse"] or (name in site["refuse"] and value != usual)


def refuse_mounts_over(forced: "Iterable[Mount]", wanted: Settings) -> None:
    for mount in forced:
        for other in wanted.mounts:
            if other.target == mount.target and other.source != mount.source:
                raise problems.SettingRefused(
                    f"{other.why} mounts `{other.source}` at `{other.target}`, where this site has"
                    f" `{mount.source}` for all jobs",
                    OTHERWISE,
                )


def shown(value: "Any") -> str:
    return value if isinstance(value, str) else ", ".join(value)
