"""Configuration of a site manager: one TOML file, typed defaults, unknown keys refused.

`deploy/site.example.toml` is the annotated sample; a test loads it.
"""

import ipaddress
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct, field

from vimraft.core.ids import name_problem

MAX_BACKUPS = 1_000


class ConfigError(Exception):
    """Names the file, the key, the cause and the remedy."""


class SiteConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A site this manager is responsible for."""

    name: str
    priority: tuple[str, ...] = ()


class NetworkConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """host:port each. `raft`, `api` and `peer` are for other managers, `nbd` is for clients."""

    raft: str
    api: str
    nbd: str
    peer: str
    allow_plaintext: bool = False
    """API, client and peer I/O are not encrypted: addresses other than loopback need this. Raft without
    [tls] needs it too, and then a loopback address."""


class TlsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Of the Raft links: PEM files, made by `vimraft tls`."""

    ca: Path
    cert: Path
    key: Path


class RaftConfig(Struct, frozen=True, forbid_unknown_fields=True):
    members: tuple[str, ...] = ()
    """Raft addresses of the managers that form the cluster together (this one may be among them).
    Empty: this manager joins a running cluster (`vimraft site join`) and remembers its members."""
    election_min_ms: int = 400
    election_max_ms: int = 900
    heartbeat_ms: int = 100
    compaction_entries: int = 20_000


class DataConfig(Struct, frozen=True, forbid_unknown_fields=True):
    threads: int = 16
    """nbdkit threads of each data-plane process."""
    restart_backoff_ms: int = 200
    restart_backoff_max_ms: int = 10_000


class EventsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    keep_events: int = 10_000
    keep_load_hours: int = 48


class BackupConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Backups of the tables that the manager takes by itself, in `data_dir`/backups."""

    keep_daily: int = 14
    keep_before_upgrade: int = 5


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    manager: str
    data_dir: Path
    network: NetworkConfig
    sites: tuple[SiteConfig, ...]
    raft: RaftConfig = field(default_factory=RaftConfig)
    tls: TlsConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    backup: BackupConfig = field(default_factory=BackupConfig)
    token_file: Path | None = None
    """Bearer token that callers of the API must show for changes; default `data_dir`/api.token,
    made at the first start. Managers of one cluster share one token."""
    log_level: str = "info"

    @property
    def api_url(self) -> str:
        return f"http://{self.network.api}"


def split_address(address: str) -> tuple[str, int]:
    """'host:port' → (host, port). Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(path: Path) -> Config:
    """Raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give the path of a site.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        config = msgspec.convert(raw, Config, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}. See deploy/site.example.toml for every key") from None
    _check(path, config)
    return config


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"expected a {kind.__name__}, got {value!r}")


def _check(path: Path, config: Config) -> None:
    names = [("manager", config.manager), *(("sites.name", s.name) for s in config.sites)]
    for key, name in names:
        problem = name_problem(name)
        if problem is not None:
            raise ConfigError(f"{path}: {key} {name!r} {problem}")
    if len({s.name for s in config.sites}) != len(config.sites):
        raise ConfigError(f"{path}: a site is listed twice; give each [[sites]] its own name")
    if not config.data_dir.is_absolute():
        raise ConfigError(f"{path}: data_dir {config.data_dir} is not absolute; write it from /")
    for key in ("raft", "api", "nbd", "peer"):
        address = getattr(config.network, key)
        try:
            host, _ = split_address(address)
        except ValueError as error:
            raise ConfigError(f"{path}: network.{key}: {error}") from None
        if key != "raft" and not is_loopback(host) and not config.network.allow_plaintext:
            raise ConfigError(
                f"{path}: network.{key} {address} is not a loopback address, and this release does "
                "not encrypt its traffic. On an isolated network set "
                "network.allow_plaintext = true; otherwise put a tunnel between the sites"
            )
    _check_raft_links(path, config)
    for member in config.raft.members:
        try:
            split_address(member)
        except ValueError as error:
            raise ConfigError(f"{path}: raft.members: {error}") from None
    for key in ("keep_daily", "keep_before_upgrade"):
        if not 1 <= getattr(config.backup, key) <= MAX_BACKUPS:
            raise ConfigError(f"{path}: backup.{key} must be 1 to {MAX_BACKUPS}")
    raft = config.raft
    if not 50 <= raft.heartbeat_ms < raft.election_min_ms / 3 < raft.election_max_ms / 3:
        raise ConfigError(
            f"{path}: raft timings must satisfy 50 <= heartbeat_ms, 3 * heartbeat_ms < election_min_ms < "
            "election_max_ms"
        )


def _check_raft_links(path: Path, config: Config) -> None:
    """Mutual TLS, or plain TCP where nobody else can listen."""
    address, tls = config.network.raft, config.tls
    if tls is not None:
        for key in TlsConfig.__struct_fields__:
            file: Path = getattr(tls, key)
            if not file.is_absolute():
                raise ConfigError(f"{path}: tls.{key} {file} is not absolute; write it from /")
        return
    remedy = (
        f"make certificates with vimraft tls init and vimraft tls issue NAME --raft {address}, and name them "
        "in [tls]"
    )
    if not is_loopback(split_address(address)[0]):
        raise ConfigError(
            f"{path}: network.raft {address} can be reached from other hosts: the replicated log needs "
            f"mutual TLS there, whatever network.allow_plaintext says; {remedy}"
        )
    if not config.network.allow_plaintext:
        raise ConfigError(
            f"{path}: network.raft {address} has no certificate: {remedy}; or, for managers on one host "
            "only, set network.allow_plaintext = true"
        )
