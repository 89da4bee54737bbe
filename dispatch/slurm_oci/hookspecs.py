"""The hooks that a plugin can implement, by defining a function of the name."""

import pluggy

from slurm_oci.values import Runtime

GROUP = "slurm_oci"
PREFIX = "slurm_oci_"

hookspec = pluggy.HookspecMarker(GROUP)


@hookspec
def slurm_oci_runtimes() -> list[Runtime]:  # type: ignore[empty-body]
    """The container runtimes that this plugin provides."""
