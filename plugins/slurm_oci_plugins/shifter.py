"""Shifter: images that its own gateway has, by name. It is setuid root, and the site decides what it
mounts beside the job's own wishes (home and the like are the site's configuration)."""

from slurm_oci import Container, Mount, Plan, Runtime, SettingRefused, problems
from slurm_oci.container import IMAGES_OWN
from slurm_oci.job import STANDARD_PATH
from slurm_oci_plugins import carried

# The C library takes these away from a setuid program (ld.so(8), "secure-execution mode").
TAKEN_AWAY = (*IMAGES_OWN, "TMPDIR", "TZDIR", "LOCPATH", "NLSPATH", "HOSTALIASES", "GCONV_PATH")
# Of a path shifter drops every other sign; a colon ends it.
PATH_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-/")


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="shifter",
            summary="Shifter, NERSC's: images in its own gateway",
            accepts=("name", "reference"),
            executables=("shifter",),
            plan=plan,
            carries=("mounts", "workdir", "variables", "entrypoint=yes", "gpu=none"),
            variables=("SHIFTER", "SLURM_SPANK_SHIFTER"),
        )
    ]


def plan(container: Container) -> Plan:
    settings, image = container.settings, container.image
    options = [f"--image={gateway_name(image.name)}"]
    wishes = tuple(mount for mount in container.mounts if mount.wish)
    for mount in carried.mounts(container.replace(mounts=wishes), fault_of_mount):
        options.append(f"--volume={mount.source}:{mount.target}" + ":ro" * mount.readonly)
    command = command_of(container)
    options += [] if container.workdir_wished else [f"--workdir={container.workdir}"]
    options += ["--entrypoint"] if settings.entrypoint == "yes" else []
    told = {*settings.variables, *TAKEN_AWAY}
    variables, lost = carried.variables(
        container,
        lambda name, value: "shifter takes no empty value" if name in told and not value else "",
    )
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "USER": container.job.user, **container.own}
    for name, value in variables.items():
        if name in told:
            options.append(f"--env={name}={value}")
        else:
            env[name] = value
    argv = (container.executables["shifter"], *options, *command)
    return Plan(argv, env, notes=lost)


def command_of(container: Container) -> tuple[str, ...]:
    """The command, as getopt must see it. Where a directory to start in was asked for, the image's shell
    goes there: shifter itself would go on in `/` if it cannot. Raises SettingRefused."""
    command, settings = container.command, container.settings
    if container.workdir_wished:
        if settings.entrypoint == "yes":
            raise SettingRefused(
                f"{settings.origins['workdir']} is `{container.workdir}`: `shifter` cannot see to it together"
                f" with {settings.origins['entrypoint']}"
            )
        go = 'cd -- "$1" || exit 125; shift; exec "$@"'
        return ("/bin/sh", "-c", go, "sh", container.workdir, *command)
    return ("--", *command) if command[:1] and command[0].startswith("-") else command


def gateway_name(name: str) -> str:
    """`docker:NAME`. Raises ImageRefused for what is in no gateway."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "docker":
        raise problems.ImageRefused(
            f"`shifter` cannot run `{name}`: its gateway knows images by docker:// alone",
            "`shifterimg images` lists what it has",
        )
    return f"docker:{rest if separator else name}"


def fault_of_mount(mount: Mount) -> str:
    if set(mount.source + mount.target) - PATH_SIGNS:
        return "of a path shifter carries letters, digits and `_.+-/` alone"
    if any(mount.target == folder or mount.target.startswith(folder + "/") for folder in ("/etc", "/var")):
        return "shifter mounts nothing below /etc and /var"
    return ""
