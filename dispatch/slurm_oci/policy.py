"""What a site has for some jobs, forces on all and refuses them: site.toml's `rules`, `forced`, `refuse`.

Convenience, no boundary: it holds for those who come through the entry point.
"""

from slurm_oci import problems
from slurm_oci.settings import PREFIX, combine, read_mounts
from slurm_oci.values import TYPE_CHECKING, Image, Job, Request, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

    from slurm_oci.values import Mount, Step

    Layer = tuple[str, Mapping[str, Any]]

FORCED = "[forced] of site.toml"  # as the origin of a setting
OTHERWISE = "ask the site, or leave it out; `slurm-oci-plugins site` shows what is in force"


def usual(
    site: "Mapping[str, Any]", request: Request, job: Job, image: Image, trace: "list[Step]"
) -> "list[Layer]":
    """What holds for such a task that asks for nothing: site.toml's defaults, and above them the rules
    that fit, of which the first comes last and so counts."""
    facts = {
        "partition": job.env.get("SLURM_JOB_PARTITION", ""),
        "account": job.env.get("SLURM_JOB_ACCOUNT", ""),
        "qos": job.env.get("SLURM_JOB_QOS", ""),
        "user": job.user,
        "kind": image.kind,
        "step": request.step_kind,
    }
    fitting = [
        (number, rule["settings"])
        for number, rule in enumerate(site["rules"], 1)
        if all(facts[key] in wanted for key, wanted in rule["when"].items())
    ]
    if site["rules"]:
        numbers = ", ".join(str(number) for number, _ in fitting)
        count = f"{len(site['rules'])} in site.toml"
        trace.append(("rules", numbers or "none fits", f"of {count}" if numbers else count))
    rules = [(f"rule {number} of site.toml", settings) for number, settings in reversed(fitting)]
    return [("site.toml", site["defaults"]), *rules]


def combined(
    site: "Mapping[str, Any]", usual: "Iterable[Layer]", layers: "Iterable[Layer]", cwd: str
) -> Settings:
    """What `settings.combine` gives for the `usual` layers, the `layers` of the definition and the job,
    and what the site forces. Raises SettingRefused for what no job may ask for, and SettingInvalid."""
    usual, layers = tuple(usual), tuple(layers)
    given = {name: value for _, layer in usual for name, value in layer.items()}
    for origin, layer in layers:
        for name, value in layer.items():
            label = PREFIX + name.upper() if origin == "job" else f"`{name}` in {origin}"
            if value == "":
                continue
            if is_refused(name, value, site["refuse"], given):
                raise problems.SettingRefused(
                    f"{label} is `{shown(value)}`, which this site refuses (`refuse` in site.toml)", OTHERWISE
                )
            if name != "mounts" and value != site["forced"].get(name, value):
                raise problems.SettingRefused(
                    f"{label} is `{shown(value)}`: this site has `{site['forced'][name]}` for all jobs",
                    OTHERWISE,
                )
    forced = read_mounts(site["forced"].get("mounts", ()), f"`mounts` in {FORCED}", cwd)
    wanted = combine([*usual, *layers, (FORCED, site["forced"])], cwd)
    refuse_mounts_over(forced, wanted)
    return wanted


def is_refused(name: str, value: "Any", refuse: "Collection[str]", given: "Mapping[str, Any]") -> bool:
    """Whether `refuse` names the setting with this value, or without any: then everything is refused but
    what holds for those who do not ask, which is `given` or built in."""
    if name not in Settings.fields or name == "variables":
        return False
    usual = given.get(name, getattr(Settings, name))
    return f"{name}={value}" in refuse or (name in refuse and value != usual)


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
