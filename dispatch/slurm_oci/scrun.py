"""The set-up of rootless Docker or Podman whose containers run as Slurm's jobs, through scrun.

After Slurm's Containers Guide; where a file differs from the guide's, `notes` say why. Everything
is rendered first, so that it can be read before any of it is written.

Seen with podman 5.4 and 5.8, Docker 26.1, and scrun of Slurm 24.11.5 and 26.05.5.
"""

import contextlib
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator

import attrs

from slurm_oci import installed_slurm
from slurm_oci.problems import Problem, visible
from slurm_oci.templates import free_name

STORAGE = "%h/containers"  # where the images are kept; the letters are systemd's
DOCKERD = "dockerd-rootless.sh"
CONTRIB = "/usr/share/docker.io/contrib"  # where Debian's docker.io has Docker's own scripts


class SetupRefused(Problem):
    """Docker or Podman cannot be set up for scrun as it was asked for."""

    area = "site"


class SetupNotWritten(Problem):
    """A file of the set-up for scrun cannot be written where it belongs."""

    area = "site"


@attrs.frozen
class Place:
    """For whom the set-up is, and where the parts of it are."""

    user: pwd.struct_passwd | None  # None: for all users
    storage: str = STORAGE  # below it all images; every node must see it
    scrun: str = "/usr/bin/scrun"
    slurm: str = "/etc/slurm"  # the folder of slurm.conf
    dockerd: str = f"/usr/bin/{DOCKERD}"

    def path(self, kind: str, **letters: str) -> str:
        """The storage of `kind`, `letters` filled in for all users, the values for one."""
        filled = letters
        if self.user:
            filled = {"h": self.user.pw_dir, "u": self.user.pw_name, "U": str(self.user.pw_uid)}
        text = self.storage.rstrip("/") + "/" + kind
        for letter, value in filled.items():
            text = text.replace("%" + letter, value)
        return text

    def config(self, name: str, of_all: str) -> str:
        """The file `name` of the user's configuration, or `of_all`."""
        return os.path.join(self.user.pw_dir, ".config", name) if self.user else of_all


@attrs.frozen
class File:
    """A file to review and to write."""

    path: str
    text: str
    notes: tuple[str, ...] = ()  # why it is not as in the guide
    of_site: bool = False  # serves all users, also where the set-up is for one


def place_for(user: str | None, storage: str) -> Place:
    """The set-up for the user of that name, or for all. Raises SetupRefused."""
    if not storage.startswith(("/", "%h/")) or set("\"'\\\n$`{}") & set(storage):
        raise SetupRefused(
            f"the images cannot be kept in `{storage}`",
            "name a directory that every node sees; %h is the user's home, %u the name, %U the number",
        )
    return Place(
        passwd(user) if user else None,
        storage,
        shutil.which("scrun") or Place(None).scrun,
        installed_slurm.folder(),
        contributed(DOCKERD) or Place(None).dockerd,
    )


def contributed(name: str) -> str:
    """Where a script of Docker's is; empty where it is not."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":" + CONTRIB) or ""


def passwd(name: str) -> pwd.struct_passwd:
    """Raises SetupRefused."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise SetupRefused(
            f"this node knows no user `{name}`", "`getent passwd` lists those it knows"
        ) from None
    if entry.pw_uid == 0:
        raise SetupRefused(
            "root's Docker or Podman is not for scrun, which works without root alone",
            "--user NAME, or --all-users",
        )
    return entry


# The files


def files(tool: str, place: Place, in_job: bool = False) -> list[File]:
    """What belongs to the set-up of `tool`; `in_job`: podman that stays in the cgroup of a job."""
    if in_job:
        return [podman_in_job(place)]
    own = podman(place) if tool == "podman" else docker(place)
    return [*own, scrun_lua(place)]


def podman_in_job(place: Place) -> File:
    text = """\
# Podman called within a job stays in the job's cgroup, under its limits and devices.
[containers]
cgroupns = "host"

[engine]
cgroup_manager = "cgroupfs"
"""
    return File(place.config("containers/containers.conf", "/etc/containers/containers.conf"), text)


def podman(place: Place) -> list[File]:
    conf = f"""\
# `podman run` submits a job, in which the container runs: scrun is podman's runtime.
[containers]
apparmor_profile = "unconfined"
cgroupns = "host"
cgroups = "enabled"
default_sysctls = []
label = false
netns = "host"
no_hosts = true
pidns = "host"
utsns = "host"
userns = "host"
# The guide has "journald", which needs systemd's journal and leave to read it for `podman logs`.
log_driver = "k8s-file"

[engine]
# The guide has "systemd", which needs a session of the user's with D-Bus, as a job or a login by
# `su` has none. The container's own processes are on another node, in the job's cgroup.
cgroup_manager = "cgroupfs"
runtime = "slurm"
remote = false

[engine.runtimes]
slurm = ["{place.scrun}"]
"""
    if place.user:
        where = f"""\
graphroot = "{place.path("podman")}"
# The guide puts this beside the images as well; it holds locks and sockets of this boot of this
# machine, and belongs on a file system of its own.
runroot = "/run/user/{place.user.pw_uid}/containers"
"""
    else:
        images = place.path("podman", h="$HOME", u="$USER", U="$UID")
        where = f"""\
# The guide sets graphroot and runroot here, which in this file are root's own. Mind that `driver`
# is root's as well: where root has images in another form, root needs a storage.conf of its own
# (CONTAINERS_STORAGE_CONF).
rootless_storage_path = "{images}"
"""
    storage = f"""\
# Images on a file system that every node sees, unpacked (`vfs`), so that a job finds them in place.
[storage]
driver = "vfs"
{where}
# The guide's `pull_options` are left out: they speak of partial pulls, which vfs has not.
[storage.options.vfs]
ignore_chown_errors = "true"
"""
    folder = "containers/"
    return [
        File(place.config(folder + "containers.conf", "/etc/containers/containers.conf"), conf),
        File(place.config(folder + "storage.conf", "/etc/containers/storage.conf"), storage),
    ]


def docker(place: Place) -> list[File]:
    settings: dict[str, object] = {
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "bridge": "none",
        "no-new-privileges": True,
        "selinux-enabled": False,
        "default-runtime": "slurm",
        "runtimes": {"slurm": {"path": "/usr/bin/env", "runtimeArgs": ["--chdir=/tmp", place.scrun]}},
        "storage-driver": "vfs",
    }
    notes = [
        "`ip-forward` and `ip6tables` are off: in the host's network, which scrun needs, dockerd may not"
        " switch them on and ends",
        "Docker calls its runtime in the bundle's directory, which no node has, and the job would start"
        " there; so env(1) changes to /tmp",
        "`experimental` and `rootless` are left out: nothing here is experimental, and dockerd knows that"
        " it is rootless",
        "the images lie on a file system that every node sees; exec-root, with its sockets, does not",
    ]
    service = """\
[Service]
Environment="DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=none"
Environment="DOCKERD_ROOTLESS_ROOTLESSKIT_NET=host"
"""
    if place.user:
        settings["data-root"] = place.path("docker")
        settings["exec-root"] = f"/run/user/{place.user.pw_uid}/docker-exec"
    else:
        notes.append(
            "it is not called daemon.json: the system's dockerd would read that, a rootless one reads the"
            " user's alone"
        )
        service += f"""\
# A rootless dockerd reads no file in /etc unless it is told to, and daemon.json knows no variables:
# the directories of each user are named here.
ExecStart=
ExecStart={place.dockerd} --config-file={DAEMON_OF_ALL} \\
  --data-root={place.path("docker", h="%h")} --exec-root=%t/docker-exec
"""
    daemon = json.dumps(settings, indent=4) + "\n"
    override = "systemd/user/docker.service.d/override.conf"
    return [
        File(place.config("docker/daemon.json", DAEMON_OF_ALL), daemon, tuple(notes)),
        File(place.config(override, "/etc/" + override), service),
    ]


DAEMON_OF_ALL = "/etc/docker/daemon-scrun.json"


def scrun_lua(place: Place) -> File:
    notes = (
        "the guide's copies every image with rsync, and puts paths that users chose into shell lines"
        " as they are; with images that every node sees, nothing need be copied",
        "the guide's rewrites config.json in Lua, which fails: Slurm 24.11.5 has no `slurm.from_json`, and"
        " 26.05.5 cannot turn back what it has read (`invalid key to 'next'`). On the node, slurm-oci's"
        " entry point takes the bundle as it is: oci.conf must be that of `slurm-oci-plugins oci-conf`",
    )
    return File(os.path.join(place.slurm, "scrun.lua"), LUA.replace("@STORAGE@", place.storage), notes, True)


# Lua 5.1 to 5.4. Words for the shell go through `quoted`, all of them.
LUA = """\
-- scrun(1) calls these two functions for each container of rootless Docker or Podman.
-- Made by `slurm-oci-plugins scrun`.

-- Where images are kept, on a file system that every node sees: %h is the user's home, %u the
-- name, %U the number. As in storage.conf and daemon.json.
local STORAGE = "@STORAGE@"

local function quoted(word)
  return "'" .. (string.gsub(word, "'", "'\\\\''")) .. "'"
end

local function run(...)
  local words = {}
  for number, word in ipairs({...}) do
    words[number] = quoted(word)
  end
  local status, output = slurm.allocator_command(table.concat(words, " "))
  if status ~= 0 then
    error(table.concat(words, " ") .. ": " .. tostring(output), 0)
  end
  return output
end

local function storage_of(user_id)
  local uid = string.format("%d", user_id)
  local entry = run("/usr/bin/env", "getent", "passwd", uid)
  local name, home = string.match(entry, "([^:\\n]+):[^:]*:" .. uid .. ":[^:]*:[^:]*:([^:]*)")
  local letters = {h = home, u = name, U = uid}
  return (string.gsub(STORAGE, "%%([huU])", letters))
end

local function is_below(path, folder)
  return string.sub(path, 1, #folder + 1) == folder .. "/"
end

local function string_end(text, at)
  while true do
    at = string.find(text, '["\\\\]', at + 1)
    if string.sub(text, at, at) == '"' then
      return at
    end
    at = at + 1
  end
end

-- A config.json with the value of its key `hooks` empty: Docker's are for networks on its own host.
local function without_hooks(text)
  local depth, at, hooks = 0, 1, nil
  while true do
    at = string.find(text, '["%[%]{}]', at)
    if not at then
      return text
    end
    local sign = string.sub(text, at, at)
    if sign == '"' then
      local stop = string_end(text, at)
      if depth == 1 and string.sub(text, at, stop) == '"hooks"' then
        hooks = string.match(text, "^%s*:%s*(){", stop + 1)
      end
      at = stop
    elseif sign == "{" or sign == "[" then
      depth = depth + 1
    else
      depth = depth - 1
      if hooks and depth == 1 then
        return string.sub(text, 1, hooks - 1) .. "{}" .. string.sub(text, at + 1)
      end
    end
    at = at + 1
  end
end

local staged = {}  -- by the container's id: the bundle that was made for it

-- Docker's bundle lies in its private /run: config.json goes to where the nodes see it. The path of
-- the root file system in there is absolute already.
local function stage_in(id, bundle, config_file, user_id, job_env)
  local storage = storage_of(user_id)
  for _, variable in pairs(job_env) do
    local root = string.match(variable, "^SCRUN_ROOTFS_PATH=(.*)$")
    if root and not is_below(root, storage) then
      slurm.log_error("scrun.lua: " .. root .. " is not below " .. storage
        .. ": the node will not find it; see `slurm-oci-plugins scrun`")
    end
  end
  if is_below(bundle, storage) then
    return
  end
  if not string.match(id, "^[%w_+-][%w_.+-]*$") then
    error("no container can be called " .. id, 0)
  end
  local config = assert(io.open(config_file, "rb"))
  local text = config:read("*a")
  config:close()
  local made = storage .. "/scrun/" .. id
  run("/usr/bin/env", "mkdir", "-p", "-m", "0700", "--", made)
  staged[id] = made
  local copy = assert(io.open(made .. "/config.json", "wb"))
  copy:write(without_hooks(text))
  assert(copy:close())
  slurm.set_bundle_path(made)
end

-- Without the shell: scrun 24.11.5 loses the status of what it starts here, and says so.
local function stage_out(id)
  if staged[id] then
    os.remove(staged[id] .. "/config.json")
    os.remove(staged[id])
    staged[id] = nil
  end
end

-- Other than SUCCESS, or an error, makes scrun wait for ever (seen in 24.11.5 and 26.05.5). What
-- could not be staged is logged, and the job then ends by itself for want of the bundle.
local function guarded(stage, ...)
  local fine, problem = pcall(stage, ...)
  if not fine then
    slurm.log_error("scrun.lua: " .. tostring(problem))
  end
  return slurm.SUCCESS
end

function slurm_scrun_stage_in(id, bundle, spool_dir, config_file, job_id, user_id, group_id, job_env)
  return guarded(stage_in, id, bundle, config_file, user_id, job_env)
end

function slurm_scrun_stage_out(id, bundle, orig_bundle, root_path, orig_root_path, spool_dir,
                               config_file, job_id, user_id, group_id)
  return guarded(stage_out, id)
end

return slurm.SUCCESS
"""


# Looking and writing


def shown(file: File) -> str:
    """The file to review, under its path and what is to be said of it."""
    notes = "".join(f"#   {note}\n" for note in file.notes)
    return f"# ==> {visible(file.path)}\n{notes}{file.text}"


@attrs.frozen
class Written:
    """What became of one file."""

    path: str
    state: str  # written, replaced, same, left
    backup: str = ""


def write(chosen: list[File], user: pwd.struct_passwd | None, force: bool) -> list[Written]:
    """Puts all files into their places, or none: a user's own as the user, the site's as root.

    Without root, the site's files are left to the admin. Raises SetupNotWritten.
    """
    root = os.geteuid() == 0
    chosen = list(chosen)
    done = [Written(file.path, "left") for file in chosen if file.of_site and not root]
    mine = [file for file in chosen if not (file.of_site and not root)]
    done += [Written(file.path, "same") for file in mine if content(file.path) == file.text]
    new = [file for file in mine if content(file.path) != file.text]
    for file in new:
        if os.path.lexists(file.path) and not force:
            raise SetupNotWritten(
                f"`{file.path}` is there already, and other",
                "`--force` replaces it and keeps a backup beside it",
            )
    temporary: list[tuple[File, str]] = []
    moved: list[tuple[File, str]] = []  # each with its backup, or empty
    try:
        for file in new:
            with becoming(owner(file, user)):
                temporary.append((file, beside(file)))
        for file, name in temporary:
            with becoming(owner(file, user)):
                backup = free_name(file.path) if os.path.lexists(file.path) else ""
                if backup:
                    os.link(file.path, backup, follow_symlinks=False)
                os.rename(name, file.path)
            moved.append((file, backup))
            done.append(Written(file.path, "replaced" if backup else "written", backup))
    except BaseException as error:
        undo(moved, temporary, user)
        if isinstance(error, OSError):
            raise SetupNotWritten(
                f"cannot write `{error.filename}`: {error.strerror}",
                "run it as the owner of that place, with room on its file system",
            ) from None
        raise
    return done


def owner(file: File, user: pwd.struct_passwd | None) -> pwd.struct_passwd | None:
    """As whom the file is written, where that is not who asks."""
    return None if file.of_site else user


def content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def beside(file: File) -> str:
    """The file under another name in its folder, whole."""
    folder = os.path.dirname(file.path)
    os.makedirs(folder, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=os.path.basename(file.path) + ".", dir=folder)
    with open(descriptor, "w", encoding="utf-8") as new:
        new.write(file.text)
        os.fchmod(new.fileno(), 0o644)
    return name


def undo(
    moved: list[tuple[File, str]], temporary: list[tuple[File, str]], user: pwd.struct_passwd | None
) -> None:
    for file, backup in moved:
        with becoming(owner(file, user)), contextlib.suppress(OSError):
            os.rename(backup, file.path) if backup else os.unlink(file.path)
    for file, name in temporary:
        with becoming(owner(file, user)), contextlib.suppress(OSError):
            os.unlink(name)


@contextlib.contextmanager
def becoming(user: pwd.struct_passwd | None) -> Iterator[None]:
    """Root acts in a user's home as that user: a link in there then leads no further than the user."""
    if user is None or os.geteuid() == user.pw_uid:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
