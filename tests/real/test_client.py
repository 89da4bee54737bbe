"""SLURM_OCI_SLURM=yes: a Slurm client inside the container."""

import pytest
from images import IMAGES

IMAGE, BUNDLE, OWN = "/images/client", "/images/client.bundle", "/home/alice/client"
FOR = {"crun": BUNDLE, "runc": BUNDLE, "podman": OWN}
# Everything that srun needs of its packages, beside what busybox has.
MAKE = f"""
set -e
[ -d {IMAGE} ] && exit
cp -a {IMAGES["rootfs"]} {IMAGE}.new
cd {IMAGE}.new
plugins=$(dirname $(find /usr/lib -name auth_munge.so))
mkdir -p usr/bin run/munge etc/slurm .$plugins
cp /usr/bin/srun usr/bin/
cp -a $plugins/. .$plugins/
for file in /usr/bin/srun $plugins/*.so; do ldd $file; done 2>/dev/null |
    grep -o '/[^ ]*' | sort -u | while read library; do
        mkdir -p .$(dirname $library)
        cp -L $library .$library
    done
cd /
rm -rf {BUNDLE} {OWN}
cp -r {IMAGES["oci-bundle"]} {BUNDLE}
rm -r {BUNDLE}/rootfs
ln -s {IMAGE} {BUNDLE}/rootfs
cp -a {IMAGE}.new {OWN}
chown -R alice: {OWN}
mv {IMAGE}.new {IMAGE}
"""


@pytest.mark.parametrize("runtime", ["unshare", "crun", "runc", "charliecloud", "apptainer", "podman"])
def test_srun_within_the_container_starts_a_step(slurm, runtime):
    """With the site's configuration, munge's socket and its users; refused without being asked for."""
    if runtime == "apptainer" and not slurm.root.has("apptainer"):
        pytest.skip(f"{slurm.root.suite} has no package of apptainer")
    status, _, err = slurm("sh", "-c", MAKE, user="root")
    assert status == 0, err
    image = FOR.get(runtime, IMAGE)
    inner = ["/usr/bin/srun", "--overlap", "--mpi=none", "/bin/hostname"]
    outer = ["--overlap"]
    with_it = slurm.srun(image, *inner, options=outer, SLURM_OCI_SLURM="yes", SLURM_OCI_RUNTIME=runtime)
    assert with_it[:2] == (0, b"node1\n"), with_it[2]
    without = slurm.srun(image, *inner, options=outer, SLURM_OCI_RUNTIME=runtime)
    assert without[0] != 0
