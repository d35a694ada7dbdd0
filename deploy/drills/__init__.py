"""Drills: faults on a running cluster, clusters to try them on, and chaos. For Debian's Python alone.

`clusters` and `processes` say what a cluster consists of; `record` remembers what was injected; `faults`
lists the commands of deploy/faults, whose effects are in `kills`, `links`, `disks` and `clock`; `namespaces`
is deploy/netns-cluster; `chaos`, `workload`, `checks` and `report` are deploy/chaos.
Keeps: only processes proven to be this cluster's are signalled, and what is injected can always be healed
from another process.
"""
