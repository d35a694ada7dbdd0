"""The annotated site.toml that `vimraft site init` writes; deploy/site.example.toml is the same text.

May live here: the text. A test holds it against vimraft.site.config, so that no key is missing.
"""

from pathlib import Path

_TEMPLATE = """# Configuration of one vimraft site manager.
# Start it with: vimraft site run --config FILE
# Unknown keys are refused. Commented keys show their default.

# Name of this manager, unique in the cluster: letters, digits, '.', '_', '-'.
manager = "@MANAGER@"

# Where it keeps its log, catalogue, sockets and token. Absolute, on a local disk that survives a reboot.
# Short, since Unix sockets lie in it (their path may have 107 bytes).
data_dir = "@DATA_DIR@"

# File with the API token that callers must show. All managers of a cluster share one token.
# Default: data_dir/api.token, made at the first start.
# token_file = "/etc/vimraft/api.token"

# debug, info, warning, error or critical.
# log_level = "info"

# The sites this manager is responsible for: one table each, usually one.
[[sites]]
name = "@MANAGER@"
# Further sites to take space at when this one has no more, best first.
# Changed later with: vimraft site priority
# priority = ["osaka", "nagoya"]

# Addresses of this manager, host:port each. IPv6: "[::1]:7101".
[network]
# Other managers: the replicated log.
raft = "127.0.0.1:7101"
# HTTP API, for the command line and for other managers.
api = "127.0.0.1:7102"
# NBD, for clients: what nbd-client, QEMU and libnbd attach to.
nbd = "127.0.0.1:10809"
# NBD, for the other managers only.
peer = "127.0.0.1:7103"
# API and NBD are not encrypted: addresses other than loopback need this set to true, on a network that
# nobody else can reach. Raft without [tls] needs it too, and is then possible on loopback only.
allow_plaintext = true

# Mutual TLS between the managers, for the replicated log. Each has a certificate of its own for its raft
# address, from one CA: vimraft tls init DIR, then vimraft tls issue NAME --raft HOST:PORT --ca DIR.
# Renewed files are used for new links without a restart.
# [tls]
# ca = "/etc/vimraft/tls/ca.crt"
# cert = "/etc/vimraft/tls/tokyo.crt"
# key = "/etc/vimraft/tls/tokyo.key"

[raft]
# The raft addresses of the managers that form the cluster together (the same list at each of them).
# Leave it out for a manager that joins a running cluster: vimraft site join --config FILE --via URL.
members = ["127.0.0.1:7101"]
# A follower that hears nothing from a leader for a random time between these two stands for election.
# election_min_ms = 400
# election_max_ms = 900
# How often the leader shows that it is there. 50 <= heartbeat_ms < election_min_ms < election_max_ms.
# heartbeat_ms = 100
# The log is replaced by a snapshot after this many entries.
# compaction_entries = 20000

[data]
# Threads of each of the two nbdkit processes.
# threads = 16
# A process that ends is started again after this long, doubling up to the maximum.
# restart_backoff_ms = 200
# restart_backoff_max_ms = 10000

[events]
# Bounds of the site's own catalogue.
# keep_events = 10000
# keep_load_hours = 48

[backup]
# Backups of the tables in data_dir/backups: one a day, and one before another release starts for the
# first time. So many of each are kept. See them with: vimraft meta backups
# keep_daily = 14
# keep_before_upgrade = 5
"""


def site_template(manager: str, data_dir: Path) -> str:
    """Raises nothing: what is wrong with the names, `site run` says."""
    return _TEMPLATE.replace("@MANAGER@", manager).replace("@DATA_DIR@", str(data_dir))
