"""The values that everything here is made of.

One task's story is a chain of them: `Request` (what Slurm passed), `Job` (the task's own
environment and place), `Image` (what the user named), `Settings` (what job and site asked for),
`Container` (what shall run, whatever runs it) and, from a `Runtime`, a `Plan` (what to do, as
data). They are plain classes, because this module is imported once for every task of every step:
attrs would cost more than everything else together.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, Self, dataclass_transform

    from slurm_oci.lookup import Required

    Step = tuple[str, str, str]  # of the decision trace: step, result, why
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(kw_only_default=False, frozen_default=True)
class Value:
    """An immutable record whose fields are its annotations, in order; defaults as in a dataclass.

    Equal when of the same class with equal fields. `replace` gives a changed copy.
    """

    fields: "ClassVar[tuple[str, ...]]" = ()

    def __init_subclass__(cls) -> None:
        cls.fields = (*cls.fields, *cls.__annotations__)

    def __init__(self, *args: "Any", **named: "Any") -> None:
        cls = type(self)
        if len(args) > len(cls.fields):
            raise TypeError(f"{cls.__name__} has {len(cls.fields)} fields, not {len(args)}")
        given = dict(zip(cls.fields, args))
        for name, value in named.items():
            if name in given or name not in cls.fields:
                raise TypeError(f"{cls.__name__} cannot take `{name}` (twice, or unknown)")
            given[name] = value
        for name in cls.fields:
            if name not in given and not hasattr(cls, name):
                raise TypeError(f"{cls.__name__} needs `{name}`")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: "Any") -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use replace()")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.fields))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.fields)
        return f"{type(self).__name__}({shown})"

    def as_dict(self) -> "dict[str, Any]":
        return {name: getattr(self, name) for name in self.fields}

    def replace(self, **changes: "Any") -> "Self":
        return type(self)(**{**self.as_dict(), **changes})


# Step numbers that are not numbers but names, as Slurm prints them for %s (slurm/slurm.h).
STEP_KINDS = {4294967291: "batch", 4294967290: "interactive", 4294967292: "extern", 4294967293: "pending"}


class Request(Value):
    """One call of the entry point: oci.conf(5)'s `%b %m %u %U %n %j %s %t` and the command.

    Texts carry any bytes (`os.fsdecode`, that is UTF-8 with surrogates for what is not).
    """

    bundle: str  # as the user typed it after --container: a path or a URI, so never a Path
    spool: str  # Slurm's directory for the step (25.05 on) or the task (before)
    user: str
    uid: int
    node: str
    job: int
    step: int
    task: int  # counted on this node, not the rank
    command: tuple[str, ...] = ()

    @property
    def step_kind(self) -> str:
        """`batch`, `interactive`, `extern`, `pending`, or `step` for a numbered one."""
        return STEP_KINDS.get(self.step, "step")

    @property
    def step_name(self) -> str:
        """The step as squeue(1) names it: a number or a kind."""
        return STEP_KINDS.get(self.step) or str(self.step)

    def words(self) -> tuple[str, ...]:
        """The eight fields and the command, as the entry point and a user's hook get them."""
        numbers = (str(self.uid), self.node, str(self.job), str(self.step), str(self.task))
        return (self.bundle, self.spool, self.user, *numbers, *self.command)


class Job(Value):
    """What the task's own environment is, wherever Slurm put it."""

    env: "Mapping[str, str]"
    env_from: str  # the file's path, `process`, `bundle`, or `arguments` where nothing was found
    cwd: str  # the job's directory: where Slurm started us
    user: str  # from the passwd entry of the effective user, as are the next two
    home: str
    shell: str
    notes: tuple[str, ...] = ()  # warnings for the user, a line each


class Image(Value):
    """What `--container` named, and what it is, decided by content (`slurm_oci.image`)."""

    name: str  # as the user wrote it
    kind: str  # one of slurm_oci.image.KINDS
    path: str = ""  # absolute; empty for a reference or a name
    root: str = ""  # the directory that holds the root file system, where there is one
    config: "Mapping[str, Any]" = {}  # an oci-bundle's config.json

    @property
    def env(self) -> "dict[str, str]":
        """The variables that the image itself declares, as far as they can be seen from outside."""
        listed = self.config.get("process", {}).get("env") or ()
        return dict(entry.partition("=")[::2] for entry in listed)


class Mount(Value):
    """A bind mount. A wish is carried out or refused; what is none is left out where impossible."""

    source: str
    target: str
    readonly: bool = False
    wish: bool = True
    why: str = ""  # `home`, `the job's directory`, `SLURM_OCI_MOUNTS`, …


class Settings(Value):
    """What job, environment definition and site ask for; the first value named is the default."""

    runtime: str = ""  # a runtime's name
    mounts: tuple[Mount, ...] = ()
    workdir: str = ""  # empty: the job's directory
    home: str = "bind"  # bind, none
    env: str = "job"  # job, slurm, all, none
    writable: str = "no"  # no, tmp, yes
    entrypoint: str = "no"  # no, yes
    gpu: str = "auto"  # auto, nvidia, amd, none
    slurm: str = "no"  # no, yes
    share: str = "task"  # task, node
    command: str = "as-given"  # as-given, in-image
    user_hook: str = "yes"  # yes, no
    debug: str = "0"  # 0, 1
    variables: "Mapping[str, str]" = {}  # set in the container by name, over everything else
    origins: "Mapping[str, str]" = {}  # field -> where its value comes from; absent: the default
    lost: "tuple[tuple[str, Any, str], ...]" = ()  # (field, value, origin) that another came over, in order

    def wished(self, name: str) -> bool:
        """True where the job, a definition or the site asked for it, so that it must be refused
        if it cannot be had."""
        return name in self.origins


class Container(Value):
    """What shall run, in no runtime's words. A runtime turns it into a `Plan`."""

    request: Request
    job: Job
    image: Image
    settings: Settings
    command: tuple[str, ...]
    env: "Mapping[str, str]"  # what the container gets, PATH and the LD_ variables left to the image
    mounts: tuple[Mount, ...]  # the wishes and the defaults, in the order to mount
    workdir: str  # a path in the container
    own: "Mapping[str, str]" = {}  # the runtime's own variables (APPTAINER_…) that the job has set
    executables: "Mapping[str, str]" = {}  # the runtime's programs on this node, by name
    configured: "Mapping[str, str]" = {}  # where site.toml says that programs are, by name
    places: tuple[str, ...] = ()  # where all others are looked for, each like $PATH
    probed: "Mapping[str, Any]" = {}  # what the runtime's probe found out about them
    private: str = ""  # the task's private directory, for runtimes that ask for one
    prefix: str = ""  # the installation's directory
    arguments: tuple[str, ...] = ()  # further words for the runtime's command line, from site.toml
    descriptors: int = 0  # so many from 3 on must reach the command: the last is PMI2's

    @property
    def workdir_wished(self) -> bool:
        return self.settings.wished("workdir")


class File(Value):
    """A file that a plan wants in the task's private directory."""

    name: str  # relative to it
    content: bytes
    mode: int = 0o600


class Plan(Value):
    """What to do for one task, as data. Nothing is done by making one.

    With files, folders, links, prepare or cleanup the dispatcher stays as the container's parent
    (`supervise`) and removes the private directory afterwards; otherwise it becomes the runtime
    (`exec`).
    """

    argv: tuple[str, ...]  # argv[0] is the executable's absolute path
    env: "Mapping[str, str]"  # the runtime's whole environment
    cwd: str = ""  # empty: stay
    folders: tuple[str, ...] = ()  # relative to the private directory, parents first
    links: tuple[tuple[str, str], ...] = ()  # (name relative to it, what it points to)
    files: tuple[File, ...] = ()
    prepare: tuple[tuple[str, ...], ...] = ()  # commands before, each with env; one fails: 126
    required: "tuple[Required, ...]" = ()  # what must be there after that, of slurm_oci.lookup
    cleanup: tuple[tuple[str, ...], ...] = ()  # commands after, however the container ended
    leaves: str = ""  # a path: `cleanup` is for what is there still, and left out where it is gone
    descriptors: int = 0  # of those from 3 on so many must be open, for runtimes that keep all or none
    umask: int = -1  # the runtime's own, where it gives the command the job's itself; -1: the job's
    notes: tuple[str, ...] = ()  # warnings for the user, a line each

    @property
    def mode(self) -> str:
        """`exec` or `supervise`."""
        kept = self.folders or self.links or self.files or self.prepare or self.cleanup
        return "supervise" if kept else "exec"


class Runtime(Value):
    """A way to run containers: what a plugin's `slurm_oci_runtimes` returns."""

    name: str
    summary: str  # one line
    accepts: tuple[str, ...]  # image kinds
    plan: "Callable[[Container], Plan]"
    executables: tuple[str, ...] = ()  # all are needed; the first one is asked for its version
    carries: tuple[str, ...] = ()  # settings beyond the defaults it can express: see SETTINGS
    private: tuple[str, ...] = ()  # what needs the private directory: image kinds, `writable=…`, `gpu`
    variables: tuple[str, ...] = ()  # prefixes of its own environment variables
    version: tuple[str, ...] = ("--version",)  # the arguments that make it print its version
    probe: "Callable[[str], Mapping[str, Any]] | None" = None  # executable -> capabilities
    fetches: bool = True  # whether it fetches a reference, which the site must allow; else it has it
    # What it takes of importers, where that is not what it accepts: it leaves all to them that they can do.
    unpacked: tuple[str, ...] = ()
    check: "Callable[[Container], Plan] | None" = None  # what `doctor` tries beside a task's own plan
