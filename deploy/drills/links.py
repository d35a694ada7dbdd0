"""Faults of links: cut, cut in one direction, slow. In nftables, in a table of this fault's own.

May live here: rules and who loads them. Where each site has an address (netns-cluster) the rules stand in the
site's network namespace and match addresses. On loopback they stand in this namespace and match ports: those
that a site listens on for the others, and those that its processes connect from, which a keeper follows.
Keeps: nothing is added but one table `vimraft_faults_…`, and healing deletes exactly that. Clients' NBD
connections and the command line are not touched: a partition here is between sites.
"""

import hashlib
from typing import Any

from drills.clusters import LINK_ROLES, Cluster, Site, in_namespace, run
from drills.fault import Asked, asked_site, end_keeper, keeper_of, start_keeper
from drills.processes import DrillError
from drills.record import Record

MARK = 0x76666C74
"""Of the relay's own connections, so that they are not led to the relay again."""
MAX_DELAY_MS = 10_000
DELAY_MS = 100


class Partition:
    name = "partition"
    summary = (
        "cut a site off from all others, or with --peer from one; with --one-way only what it sends is lost"
    )
    takes = frozenset({"peer", "one_way"})

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        return site.name, {
            "peers": _peers(cluster, site, asked),
            "one_way": asked.one_way,
            "table": table_name(cluster, self.name, site),
        }

    def apply(self, cluster: Cluster, record: Record) -> None:
        site = cluster[record.site]
        details = record.details
        if cluster.by_address:
            peers = [cluster[name] for name in details["peers"]]
            load(site.namespace, _address_rules(details["table"], peers, one_way=details["one_way"]))
        else:
            load("", port_rules(cluster, record))
            start_keeper("ports", cluster, record)

    def heal(self, cluster: Cluster, record: Record) -> None:
        unload(cluster[record.site].namespace, record.details["table"])
        end_keeper(cluster, record)

    def effect(self, cluster: Cluster, record: Record) -> str:
        site, details = cluster[record.site], record.details
        direction = "to" if details["one_way"] else "to and from"
        words = f"cut {direction} {', '.join(details['peers'])}"
        if not is_loaded(site.namespace, details["table"]):
            return "its rules are gone: nothing is cut"
        return words if cluster.by_address else words + keeper_of(record)


class SlowLink:
    name = "slow-link"
    summary = (
        "delay all that a site exchanges with the others, or with one (--peer), by --delay-ms in each "
        "direction, through a relay"
    )
    takes = frozenset({"peer", "delay_ms"})

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        if asked.peer and not cluster.by_address:
            raise DrillError(
                "slow-link --peer: on loopback a connection's site cannot be told when it is made; leave "
                "--peer out (all connections to this site are slow), or use a cluster of deploy/netns-cluster"
            )
        if not 0 <= asked.delay_ms <= MAX_DELAY_MS:
            raise DrillError(f"--delay-ms {asked.delay_ms}: 1 to {MAX_DELAY_MS}")
        return site.name, {
            "peers": _peers(cluster, site, asked),
            "delay_ms": asked.delay_ms or DELAY_MS,
            "table": table_name(cluster, self.name, site),
        }

    def apply(self, cluster: Cluster, record: Record) -> None:
        start_keeper("relay", cluster, record, namespace=cluster[record.site].namespace)

    def heal(self, cluster: Cluster, record: Record) -> None:
        end_keeper(cluster, record)  # first: its connections are closed while their addresses are still known
        unload(cluster[record.site].namespace, record.details["table"])

    def effect(self, cluster: Cluster, record: Record) -> str:
        if not is_loaded(cluster[record.site].namespace, record.details["table"]):
            return "its rules are gone: no link is slow"
        return f"{record.details['delay_ms']} ms more in each direction{keeper_of(record)}"


def table_name(cluster: Cluster, fault: str, site: Site) -> str:
    """Of this fault of this cluster alone: clusters on one host must not touch each other's."""
    mark = hashlib.sha256(f"{cluster.directory} {fault} {site.name}".encode()).hexdigest()[:12]
    return f"vimraft_faults_{mark}"


def load(namespace: str, rules: str) -> None:
    run([*in_namespace(namespace), "nft", "-f", "-"], text=rules)


def unload(namespace: str, table: str) -> None:
    if is_loaded(namespace, table):
        run([*in_namespace(namespace), "nft", "delete", "table", "inet", table])


def is_loaded(namespace: str, table: str) -> bool:
    return f"table inet {table}" in run([*in_namespace(namespace), "nft", "list", "tables"]).splitlines()


def _peers(cluster: Cluster, site: Site, asked: Asked) -> list[str]:
    if not asked.peer:
        others = [other.name for other in cluster.others(site)]
        if not others:
            raise DrillError(f"{site.name} is the only site of {cluster.directory}: it has no links")
        return others
    if asked.peer == site.name:
        raise DrillError(f"--peer {asked.peer}: a site has no link to itself; name another")
    return [cluster[asked.peer].name]


def _address_rules(table: str, peers: list[Site], *, one_way: bool) -> str:
    hosts = ", ".join(peer.host for peer in peers)
    hear = (
        ""
        if one_way
        else f"chain hear {{\n type filter hook input priority 0\n ip saddr {{ {hosts} }} drop\n}}\n"
    )
    send = f"chain send {{\n type filter hook output priority 0\n ip daddr {{ {hosts} }} drop\n}}\n"
    return f"table inet {table} {{\n{send}{hear}}}\n"


def port_rules(cluster: Cluster, record: Record) -> str:
    """`own_…` and `known` are filled by the keeper. A connection that is being made waits until it is known
    whose it is: its first packet is dropped, and sent again after a second."""
    site = cluster[record.site]
    peers = [cluster[name] for name in record.details["peers"]]
    here, there = _listening([site]), _listening(peers)
    kinds = "type inet_service\n"
    sets = (
        f"set own_here {{ {kinds} }}\nset own_there {{ {kinds} }}\n"
        f"set known {{ {kinds} }}\n"
        f"set here {{ {kinds} elements = {{ {here} }}\n }}\n"
        f"set there {{ {kinds} elements = {{ {there} }}\n }}\n"
    )
    rules = ["tcp sport @own_here tcp dport @there drop", "tcp sport @here tcp dport @own_there drop"]
    if not record.details["one_way"]:
        rules += ["tcp sport @own_there tcp dport @here drop", "tcp sport @there tcp dport @own_here drop"]
    for listening in ("here", "there"):
        rules.append(f"tcp flags & (syn | ack) == syn tcp dport @{listening} tcp sport != @known drop")
    lines = "\n".join(rules)
    chain = f'chain cut {{\n type filter hook output priority 0\n oifname != "lo" accept\n{lines}\n}}\n'
    return f"table inet {record.details['table']} {{\n{sets}{chain}}}\n"


def relay_rules(cluster: Cluster, record: Record, relay_port: int) -> str:
    """New connections go through the relay; those that were there are reset, and made again through it."""
    site = cluster[record.site]
    marked = f"meta mark {MARK} ct mark set {MARK} accept"
    if not cluster.by_address:
        ports = f"tcp dport {{ {_listening([site])} }}"
        back = f"tcp sport {{ {_listening([site])} }}"
        redirect, reset = [f"{ports} redirect to :{relay_port}"], [ports, back]
        arriving: list[str] = []
    else:
        peers = [cluster[name] for name in record.details["peers"]]
        hosts = ", ".join(peer.host for peer in peers)
        to_ports = _listening([*peers, site])
        redirect = [f"ip daddr {{ {hosts} }} tcp dport {{ {to_ports} }} redirect to :{relay_port}"]
        arriving = [f"ip saddr {{ {hosts} }} tcp dport {{ {to_ports} }} redirect to :{relay_port}"]
        reset = [f"ip daddr {{ {hosts} }} meta l4proto tcp"]
    chains = [
        _chain("leaving", "nat hook output priority -100", [f"meta mark {MARK} accept", *redirect]),
        _chain("marking", "filter hook output priority -150", [marked]),
        _chain(
            "resetting",
            "filter hook output priority 0",
            [f"ct mark {MARK} accept", "ct status dnat accept"]
            + [f"{match} reject with tcp reset" for match in reset],
        ),
    ]
    if arriving:
        chains.append(_chain("arriving", "nat hook prerouting priority -100", arriving))
    return f"table inet {record.details['table']} {{\n{''.join(chains)}}}\n"


def _chain(name: str, hook: str, rules: list[str]) -> str:
    lines = "\n".join(rules)
    return f"chain {name} {{\n type {hook}\n{lines}\n}}\n"


def _listening(sites: list[Site]) -> str:
    return ", ".join(sorted({str(site.port(role)) for site in sites for role in LINK_ROLES}))
