#!/usr/bin/python3 -I
# crun, called directly: OCI bundles, each task from a copy of the bundle's config.json.
#
# Called for every task, in the job's environment and directory, with these words:
#   1 image as given to --container   2 Slurm's directory for the step   3 user   4 uid
#   5 node   6 job   7 step   8 task on the node; then the command, word by word

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile


def stop(status, message, hint):
    sys.stderr.write(f"~/.slurm-oci-run: error: {message}\n  {hint}\n")
    sys.exit(status)


bundle, step, command = os.path.abspath(sys.argv[1]), sys.argv[7], sys.argv[9:]
home, here = os.environ["HOME"], os.getcwd()
if not os.path.isfile(bundle + "/config.json"):
    what = "is no OCI bundle: it has no config.json"
    stop(125, f"`{bundle}` {what}", "without this script, for one job: SLURM_OCI_USER_HOOK=no")
if not shutil.which("crun"):
    stop(127, "`crun` is not on this node", "`slurm-oci-plugins list` shows what is")
private = tempfile.mkdtemp(prefix="crun-", dir="/tmp")

if step == "4294967291":
    # The script of sbatch lies in a directory of Slurm's that few images have a place for; /tmp they have.
    command[0] = shutil.copy(command[0], private)

# The copy differs in what a job needs: its command, variables and directories; no namespaces but user
# and mount, and no limits but Slurm's.
try:
    with open(bundle + "/config.json", encoding="utf-8") as file:
        config = json.load(file)
    version, process = config["ociVersion"], config["process"]
    root = os.path.join(bundle, config["root"]["path"])
    # Whom the bundle says you shall be inside: one id, which stands for your own. runc needs it to be 0.
    user = {name: process["user"][name] for name in ("uid", "gid")}
except (OSError, ValueError, KeyError, TypeError) as error:
    shutil.rmtree(private)
    what = f"`{bundle}/config.json` cannot be used: {type(error).__name__}: {error}"
    stop(125, what, "`runc spec` writes one to compare with")
IMAGES_OWN = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD")
image_env = [text for text in process.get("env", []) if text.partition("=")[0] in IMAGES_OWN]
job_env = [f"{name}={value}" for name, value in os.environ.items() if name not in IMAGES_OWN]

# What of the node is seen inside, each at its own place, where the image has that place. Add your own.
places = ["/dev", "/proc", "/sys", "/tmp", home, here]
places = [place for place in dict.fromkeys(places) if os.path.isdir(root + place)]

process = {key: process.get(key) for key in ("capabilities", "noNewPrivileges")}
config = {
    "ociVersion": version,
    "root": {"path": root, "readonly": True},
    "process": {
        **{key: value for key, value in process.items() if value is not None},
        "args": command,
        "env": [*image_env, *job_env],
        "cwd": here if here in places else "/",
        "terminal": False,
        "user": user,
    },
    "mounts": [
        {"destination": place, "type": "bind", "source": place, "options": ["rbind", "rprivate"]}
        for place in places
    ],
    "linux": {
        "namespaces": [{"type": "user"}, {"type": "mount"}],
        "uidMappings": [{"containerID": user["uid"], "hostID": os.getuid(), "size": 1}],
        "gidMappings": [{"containerID": user["gid"], "hostID": os.getgid(), "size": 1}],
    },
}
with open(private + "/config.json", "w", encoding="utf-8") as file:
    json.dump(config, file)

# crun passes signals on to the command, so they are passed on to crun.
os.environ["XDG_RUNTIME_DIR"] = private
crun = ["crun", "--cgroup-manager=disabled", "--root", private + "/state"]
run = ["run"]
if "PMI_FD" in os.environ:
    # PMI2 speaks over a descriptor, and a row without gaps is what is passed on.
    last = int(os.environ["PMI_FD"])
    for number in range(3, last + 1):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        os.set_inheritable(number, True)
    run += ["--preserve-fds", str(last - 2)]
try:
    child = subprocess.Popen([*crun, *run, "--bundle", private, "task"], close_fds=False)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT"):
        signal.signal(signal.Signals[name], lambda number, frame: child.send_signal(number))
    status = child.wait()
finally:
    shutil.rmtree(private, ignore_errors=True)
sys.exit(status if status >= 0 else 128 - status)
