"""Shifter: images that its own gateway has, by name. It is setuid root, and the site decides what it
mounts beside the job's own wishes (home and the like are the site's configuration)."""

from slurm_oci import Container, Mount, Plan, Runtime, SettingRefused, problems
from slurm_oci.container import IMAGES_OWN
from slurm_oci.job import STANDARD_PATH
from slurm_oci_plugins import carried

# Of a path shifter drops every other sign (utility.c, userInputPathFilter); a colon ends it.
PATH_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-/")
# And of an image's name (ImageData.c).
NAME_SIGNS = PATH_SIGNS | {":", "@"}
# Targets that it refuses by their first letters, and as they are (VolumeMap.c).
NOT_BELOW, NOT_AT, BUT = ("/etc", "/var", "/opt/udiImage"), ("/opt",), ("/var/tmp",)


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="shifter",
            summary="Shifter, NERSC's: images in its own gateway",
            accepts=("name", "reference"),
            executables=("shifter",),
            fetches=False,  # it has only what was fetched before
            plan=plan,
            carries=("mounts", "workdir", "variables", "arguments", "entrypoint=yes", "gpu=none"),
            variables=("SHIFTER", "SLURM_SPANK_SHIFTER"),
        )
    ]


def plan(container: Container) -> Plan:
    settings, image = container.settings, container.image
    options = [*container.arguments, f"--image={gateway_name(image.name)}"]
    wishes = tuple(mount for mount in container.mounts if mount.wish)
    for mount in carried.mounts(container.replace(mounts=wishes), fault_of_mount):
        options.append(f"--volume={mount.source}:{mount.target}" + ":ro" * mount.readonly)
    options += [] if container.workdir_wished else [f"--workdir={container.workdir}"]
    options += ["--entrypoint"] if settings.entrypoint == "yes" else []

    def by_option(name: str) -> bool:
        return name in settings.variables or name in IMAGES_OWN or carried.is_taken_away(name)

    variables, lost = carried.variables(
        container,
        lambda name, value: "shifter takes no empty value" if by_option(name) and not value else "",
    )
    command = command_of(container, variables)
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "USER": container.job.user, **container.own}
    for name, value in variables.items():
        if by_option(name):
            options.append(f"--env={name}={value}")
        else:
            env[name] = value
    argv = (container.executables["shifter"], *options, *command)
    return Plan(argv, env, notes=lost)


def command_of(container: Container, variables: dict[str, str]) -> tuple[str, ...]:
    """The command, as getopt must see it. Where a directory to start in was asked for, the image's shell
    goes there: shifter itself would go on in `/` if it cannot. Raises SettingRefused."""
    command, settings = container.command, container.settings
    if container.workdir_wished:
        if settings.entrypoint == "yes":
            raise SettingRefused(
                f"{settings.origins['workdir']} is `{container.workdir}`: `shifter` cannot see to it together"
                f" with {settings.origins['entrypoint']}",
                "keep one of the two, and `cd` in the command",
            )
        words = (container.workdir, *carried.through_shell(variables))
        return ("/bin/sh", "-c", carried.ENTER, "sh", *words, *command)
    return ("--", *command) if command[:1] and command[0].startswith("-") else command


def gateway_name(name: str) -> str:
    """`docker:NAME`. Raises ImageRefused for what is in no gateway."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "docker":
        raise problems.ImageRefused(
            f"`shifter` cannot run `{name}`: its gateway knows images by docker:// alone",
            "`shifterimg images` lists what it has",
        )
    bare = rest if separator else name
    if set(bare) - NAME_SIGNS:
        raise problems.ImageRefused(
            f"`shifter` would drop characters of the name `{name}`: it knows letters, digits and `_.+-/:@`",
            "`shifterimg images` lists what it has",
        )
    return f"docker:{bare}"


def fault_of_mount(mount: Mount) -> str:
    if set(mount.source + mount.target) - PATH_SIGNS:
        return "of a path shifter carries letters, digits and `_.+-/` alone"
    if ".." in mount.source + mount.target:
        return "shifter takes no path with `..` in it"
    if mount.target not in BUT and (mount.target.startswith(NOT_BELOW) or mount.target in NOT_AT):
        return "shifter mounts nothing at /opt nor where a path begins with /etc, /var or /opt/udiImage"
    return ""
