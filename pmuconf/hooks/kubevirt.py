"""KubeVirt's hook sidecar: ``onDefineDomain --vmi JSON --domain XML``.

From KubeVirt's source: sidecar-shim runs the first ``onDefineDomain`` of PATH with these arguments, and takes what it
writes to standard output for the new domain (runOnDefineDomain() in cmd/sidecars/sidecar_shim.go). A status but 0
fails the define, so the VM does not start. Standard error is shown only then. virt-launcher waits a minute for the
answer (onDefineDomainCallback() in pkg/hooks/manager.go).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from pmuconf.domain.definition import UNKNOWN, Domain, Managed, Manager
from pmuconf.errors import PmuconfError
from pmuconf.hooks.call import Call, Facts
from pmuconf.typed import JsonObject, TypedError, parse_object

__all__ = ["call"]

# staging/src/kubevirt.io/api/core/v1/types.go: ClusterInstancetypeAnnotation and InstancetypeAnnotation.
_INSTANCE_TYPES: Final = ("kubevirt.io/cluster-instancetype-name", "kubevirt.io/instancetype-name")
_MIGRATES: Final = "the VM migrates, and its guest keeps the PMU that it has"


def call(vmi: str, domain: str, put: Callable[[bytes], None]) -> Call:
    """The call with these two arguments."""

    def facts(_: Domain) -> Facts:
        try:
            return _facts(parse_object(vmi))
        except TypedError as error:
            raise PmuconfError(f"--vmi: {error}", cause="hook-facts") from None

    return Call(os.fsencode(domain), "--domain", facts, put)


def _facts(vmi: JsonObject) -> Facts:
    metadata = vmi.get_object("metadata")
    annotations = _texts(metadata, "annotations")
    managed = Managed(
        Manager.KUBEVIRT,
        flavor=next((annotations[name] for name in _INSTANCE_TYPES if name in annotations), None),
        project=metadata.get_str("namespace") if "namespace" in metadata else UNKNOWN,
        attributes=_texts(metadata, "labels"),
    )
    return Facts(managed, _MIGRATES if _migrates(vmi) else "")


def _migrates(vmi: JsonObject) -> bool:
    """Whether the VMI was ever told to migrate.

    virt-launcher calls the hook for the target of a migration too (PrepareMigrationTarget()), and older ones for the
    source, to keep the migration's state in its metadata. The VMI has ``status.migrationState`` then. It keeps that
    when the migration is over, and nothing more is lost by it: a VM that starts anew has a new VMI.
    """
    status = vmi.opt_object("status") if "status" in vmi else None
    return status is not None and "migrationState" in status and status.opt_object("migrationState") is not None


def _texts(metadata: JsonObject, key: str) -> dict[str, str]:
    """Labels or annotations; Go leaves an empty map out."""
    there = key in metadata and metadata.opt_object(key) is not None
    return metadata.get_str_map(key) if there else {}
