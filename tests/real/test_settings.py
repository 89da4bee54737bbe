"""Every setting with each of its values, on every runtime and kind of image that this Debian has.

Each is a step of its own on the real Slurm, whose command tells whether the setting holds. What was
seen is compared with docs/matrix.json, from which the matrix in the docs is made.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import table
from cells import CELLS, DEFAULTS, left_out, refusal
from images import IMAGES

HERE = Path(__file__).resolve().parent
HOME = "/home/alice/matrix"
AT_ONCE = 3  # jobs

# Made once a suite, by alice. Images of her own, which nothing but the setting keeps from being written,
# with an entry point that says so, and a directory that all may write in, for where the rest is root's; a
# directory to mount, whose name no option syntax likes.
MAKE = f"""set -e
rm -rf {HOME}; mkdir {HOME}; cd {HOME}
mkdir "it's, data" "it's, data/below"
echo data >"it's, data/file"
cp -r /images/rootfs entry
mkdir entry/.singularity.d entry/open
printf '#!/bin/sh\\necho entry\\nexec "$@"\\n' >entry/.singularity.d/runscript
cp entry/.singularity.d/runscript entry/entry
chmod +x entry/entry entry/.singularity.d/runscript
cp -r /images/bundle entry.bundle
cp -r entry/.singularity.d entry/open entry.bundle/rootfs
chmod 1777 entry/open entry.bundle/rootfs/open
mksquashfs entry entry.sqsh -quiet -no-progress
cp -r /images/oci entry.oci
umoci insert --image entry.oci:latest entry/entry /entry
umoci insert --image entry.oci:latest entry/open /open
umoci config --image entry.oci:latest --config.entrypoint /entry
skopeo --insecure-policy copy --quiet oci:entry.oci:latest oci-archive:entry.oci.tar
skopeo --insecure-policy copy --quiet oci:entry.oci:latest docker-archive:entry.docker.tar:entry:latest
! command -v apptainer || apptainer -s build entry.sif entry
"""
# Into alice's store, which is emptied after each test.
STORE = f"podman load --quiet -i {HOME}/entry.docker.tar && podman tag entry:latest localhost/entrance:1"
IN = ("sif", "squashfs", "rootfs", "oci-bundle")
KINDS = {
    "crun": ("oci-bundle",),
    "runc": ("oci-bundle",),
    "apptainer": IN,
    "charliecloud": ("squashfs", "rootfs", "oci-bundle"),
    "podman": ("rootfs", "oci-layout", "oci-archive", "docker-archive", "name"),
    "unshare": ("rootfs", "oci-bundle"),
}
OWN = {
    "sif": f"{HOME}/entry.sif",
    "squashfs": f"{HOME}/entry.sqsh",
    "rootfs": f"{HOME}/entry",
    "oci-bundle": f"{HOME}/entry.bundle",
    "oci-layout": f"{HOME}/entry.oci",
    "oci-archive": f"{HOME}/entry.oci.tar",
    "docker-archive": f"{HOME}/entry.docker.tar",
    "name": "entrance:1",
}
# What only an image of one's own shows.
FOR_OWN = {
    *("entrypoint=no", "entrypoint=yes", "writable=no", "writable=tmp", "writable=yes"),
    *("gpu=auto", "gpu=nvidia", "gpu=amd", "gpu=none"),
}

# GPUs made up of a device that every kernel has, and what a vendor's tool says of them; and what apptainer
# looks for by itself: the driver's device, and programs that a list of its names.
MADE_UP = ("/dev/madeup0", "/dev/madeup1", "/dev/nvidiactl", "/dev/kfd")
DEVICES = "for path in {}; do mknod -m 666 $path c 1 3; done".format(" ".join(MADE_UP))
PROGRAMS = {"/usr/bin/nvidia-smi": "nvidia\n", "/usr/bin/rocm-smi": "amd\n"}
GPUS = [
    {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/madeup{n}"} for n in numbers]}}
    for name, numbers in (("0", "0"), ("1", "1"), ("all", "01"))
]
EDITS = {
    "env": ["DRIVER=1"],
    "mounts": [{"hostPath": "/etc/driver", "containerPath": "/opt/driver", "options": ["ro", "rbind"]}],
}
CDI = {"cdiVersion": "0.6.0", "devices": GPUS, "containerEdits": EDITS}
FILES = " ".join(["/opt/driver", *PROGRAMS])
DRIVEN = f'[ -c /dev/madeup1 ] && for f in {FILES}; do [ ! -f $f ] || cat $f; done; echo "$DRIVER"'
GRANTED = {"CUDA_VISIBLE_DEVICES": "1"}

VARIABLES = (
    'case :$LD_LIBRARY_PATH: in *:/odd:*) odd=odd;; esac; echo "${MINE:-no} ${SLURM_JOB_ID:+slurm} $odd"'
)
WRITE = "(echo x >/etc/x || echo x >/open/x) 2>/dev/null && echo written || echo kept"
CLIENT = '[ -S /run/munge/munge.socket.2 ] && [ -e /etc/slurm/slurm.conf ] && echo client || echo "no client"'
# Waits for the other task, as a container that its first task has left cannot be joined.
TOGETHER = """: >/tmp/matrix.$SLURM_JOB_ID.$SLURM_STEP_ID.$SLURM_LOCALID; n=0
until [ $n = 200 ] || [ -e /tmp/matrix.$SLURM_JOB_ID.$SLURM_STEP_ID.$((1 - SLURM_LOCALID)) ]; do
    sleep 0.05; n=$((n + 1))
done
readlink /proc/self/ns/mnt"""
MOUNT = f"{HOME}/it's\\, data"
# By cell: the variables of the job, the command's script, and what it prints where the setting holds.
CHECKS = {
    "mounts": (
        {"SLURM_OCI_MOUNTS": f"{MOUNT}:/mnt/a b"},
        'cat "/mnt/a b/file"; : >"/mnt/a b/new" && echo written',
        "data\nwritten\n",
    ),
    "mounts :ro": (
        {"SLURM_OCI_MOUNTS": f"{MOUNT}:/mnt/a b:ro"},
        'cat "/mnt/a b/file"; for f in new below/new; do (echo x >"/mnt/a b/$f") 2>/dev/null || echo kept; done',
        "data\nkept\nkept\n",
    ),
    "workdir": ({"SLURM_OCI_WORKDIR": "/opt"}, "pwd", "/opt\n"),
    "variables": ({}, 'echo "$MINE"', "it's, mine\n"),
    "home=bind": ({"SLURM_OCI_HOME": "bind"}, f"ls -d {HOME}/entry", f"{HOME}/entry\n"),
    "home=none": ({"SLURM_OCI_HOME": "none"}, f"[ -e {HOME} ] || echo none", "none\n"),
    "env=job": ({"SLURM_OCI_ENV": "job"}, VARIABLES, "mine slurm \n"),
    "env=slurm": ({"SLURM_OCI_ENV": "slurm"}, VARIABLES, "no slurm \n"),
    "env=all": ({"SLURM_OCI_ENV": "all"}, VARIABLES, "mine slurm odd\n"),
    "env=none": ({"SLURM_OCI_ENV": "none"}, VARIABLES, "no  \n"),
    "writable=no": ({"SLURM_OCI_WRITABLE": "no"}, WRITE, "kept\n"),
    "writable=tmp": ({"SLURM_OCI_WRITABLE": "tmp"}, WRITE, "written\n"),
    "writable=yes": ({"SLURM_OCI_WRITABLE": "yes"}, WRITE, "written\n"),
    "entrypoint=no": ({"SLURM_OCI_ENTRYPOINT": "no"}, "echo ran", "ran\n"),
    "entrypoint=yes": ({"SLURM_OCI_ENTRYPOINT": "yes"}, "echo ran", "entry\nran\n"),
    "gpu=auto": ({"SLURM_OCI_GPU": "auto", **GRANTED}, DRIVEN, "driver\n1\n"),
    "gpu=nvidia": ({"SLURM_OCI_GPU": "nvidia"}, DRIVEN, "driver\n1\n"),
    "gpu=amd": ({"SLURM_OCI_GPU": "amd"}, DRIVEN, "driver\n1\n"),
    "gpu=none": ({"SLURM_OCI_GPU": "none", **GRANTED}, DRIVEN, "\n"),
    "slurm=no": ({"SLURM_OCI_SLURM": "no"}, CLIENT, "no client\n"),
    "slurm=yes": ({"SLURM_OCI_SLURM": "yes"}, CLIENT, "client\n"),
    "share=task": ({"SLURM_OCI_SHARE": "task"}, TOGETHER, "2 containers"),
    "share=node": ({"SLURM_OCI_SHARE": "node"}, TOGETHER, "1 container"),
    "command=as-given": ({"SLURM_OCI_COMMAND": "as-given"}, "echo ran", "ran\n"),
    "command=in-image": ({"SLURM_OCI_COMMAND": "in-image"}, "echo ran", "ran\n"),
}


# Its own means are what those lists name, and no variables.
CHECKS_OF = {
    ("apptainer", "gpu=auto"): "nvidia\namd\n\n",
    ("apptainer", "gpu=nvidia"): "nvidia\n\n",
    ("apptainer", "gpu=amd"): "amd\n\n",
}


def test_every_setting_has_its_check():
    """A new one is not forgotten."""
    assert tuple(CHECKS) == CELLS


@pytest.fixture(scope="session")
def images(installed):
    """The images in place, with something mounted in the directory to mount."""
    done = installed.run(["sh", "-c", MAKE], timeout=300)
    assert done.returncode == 0, done.stderr
    installed.write("/etc/cdi/amd.json", json.dumps({"kind": "amd.com/gpu", **CDI}))
    # As NVIDIA's tool does, in YAML (of which JSON is a part), for the catalog.
    installed.write("/etc/cdi/nvidia.yaml", "---\n" + json.dumps({"kind": "nvidia.com/gpu", **CDI}))
    installed.run(["/opt/slurm-oci/bin/slurm-oci-plugins", "compile"], user="root", check=True)
    installed.write("/etc/driver", "driver\n")
    for path, text in PROGRAMS.items():
        installed.write(path, text, mode=0o755)
    installed.run(["sh", "-c", DEVICES], user="root", check=True)
    below = f"{HOME}/it's, data/below"
    installed.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", below], user="root", check=True)
    yield
    installed.run(["umount", below], user="root", check=True)
    installed.run(["rm", "-r", "/etc/cdi", "/etc/driver", *PROGRAMS, *MADE_UP], user="root", check=True)
    installed.run(["rm", "-rf", HOME], user="root", check=True)


@pytest.mark.parametrize("runtime", KINDS)
def test_each_value_of_each_setting_is_carried_or_refused_by_name(slurm, images, runtime):
    """As docs/matrix.md says."""
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    if "name" in KINDS[runtime]:
        assert slurm("sh", "-c", STORE)[0] == 0
    slurm.root.write("/tmp/each.py", (HERE / "each.py").read_text())
    tried = [(kind, cells) for kind in KINDS[runtime] for cells in groups(runtime)]
    places = [image_for(slurm, runtime, kind, cells) for kind, cells in tried]
    steps = [step(runtime, cells, image) for (_, cells), image in zip(tried, places)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        parts = list(pool.map(lambda part: run(slurm, part), [steps[n::AT_ONCE] for n in range(AT_ONCE)]))
    found = {kind: {} for kind in KINDS[runtime]}
    for number, ((kind, cells), image) in enumerate(zip(tried, places)):
        found[kind] |= verdicts(runtime, cells, image, *parts[number % AT_ONCE][number // AT_ONCE])
    wrong = [
        (kind, cell, told) for kind, cells in found.items() for cell, told in cells.items()
        if not told.startswith(("works", "refused: ", "left out: "))
    ]  # fmt: skip
    assert wrong == []
    assert not slurm.root.path("/images/rootfs/etc/x").exists()
    # In the order of the matrix.
    found = {kind: {cell: cells[cell] for cell in CELLS if cell in cells} for kind, cells in found.items()}
    version = slurm("sinfo", "--version")[1].decode().split()[1]
    table.compare("matrix", (slurm.root.suite, "cells", runtime), found, slurm=version)


# The defaults, asked for by name, are tried at once, with marks between; and what a slow one carries.
SLOW = {"podman": ("mounts", "workdir", "home=none", "env=all", "slurm=yes", "gpu=none")}
MARK = "\\001"


def groups(runtime):
    """The cells, in the steps that try them."""
    together = [some for some in (DEFAULTS, SLOW.get(runtime, ())) if some]
    return [*together, *((cell,) for cell in CELLS if cell not in sum(together, ()))]


def image_for(slurm, runtime, kind, cells):
    """The image to try the cells with, as the user names it."""
    is_own = kind == "name" or FOR_OWN & set(cells) or (runtime, kind) == ("podman", "rootfs")
    image = OWN[kind] if is_own else IMAGES[kind]
    if cells != ("variables",):
        return image
    definition = f"{HOME}/{runtime}-{kind}.toml"
    slurm.root.write(definition, f'image = "{image}"\n[env]\nMINE = "it\'s, mine"\n', user="alice")
    return definition


def step(runtime, cells, image):
    env = {"SLURM_OCI_RUNTIME": runtime, "MINE": "mine", "LD_LIBRARY_PATH": "/odd"}
    for cell in cells:
        env |= CHECKS[cell][0]
    script = f"\nprintf '{MARK}'\n".join(f"({CHECKS[cell][1]})" for cell in cells)
    shell = "/usr/bin/sh" if cells == ("command=in-image",) else "/bin/sh"
    tasks = "-n2" if cells[0].startswith("share=") else "-n1"
    return [
        *("env", *(f"{name}={value}" for name, value in env.items())),
        *("srun", "-Q", "--overlap", tasks, "-D", "/", f"--container={image}", shell, "-c", script),
    ]


def run(slurm, steps):
    """Runs `steps` in one job, one after the other; how each one ended."""
    words = ("salloc", "-Q", "-n2", "python3", "/tmp/each.py")
    status, out, error = slurm(*words, input=json.dumps(steps), timeout=300)
    assert status == 0, error
    return json.loads(out)


def verdicts(runtime, cells, image, status, out, error):
    """By cell: `works`, `refused: ` and the words, or what is wrong."""
    if status == 125:
        return dict.fromkeys(cells, refusal(error, image))
    if status or out.count("\1") != len(cells) - 1:
        return dict.fromkeys(cells, f"fails with {status}: {out!r} {error!r}")
    if cells[0].startswith("share="):
        count = len(set(out.split()))
        out = f"{count} container{'s' * (count > 1)}"
    if cells == ("gpu=auto",) and left_out(error, image):
        return {"gpu=auto": left_out(error, image)}
    return {
        cell: "works"
        if told == CHECKS_OF.get((runtime, cell), CHECKS[cell][2])
        else f"does not hold: {told!r}"
        for cell, told in zip(cells, out.split("\1"))
    }
