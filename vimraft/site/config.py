"""Configuration of a site manager: one TOML file, typed defaults, unknown keys refused.

`deploy/site.example.toml` is the annotated sample; a test loads it.
"""

import ipaddress
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct, field

from vimraft.core.ids import name_problem


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
    """Raft, API and peer I/O are not encrypted yet: addresses other than loopback need this."""


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


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    manager: str
    data_dir: Path
    network: NetworkConfig
    sites: tuple[SiteConfig, ...]
    raft: RaftConfig = field(default_factory=RaftConfig)
    data: DataConfig = field(default_factory=DataConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
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
        if not is_loopback(host) and not config.network.allow_plaintext:
            raise ConfigError(
                f"{path}: network.{key} {address} is not a loopback address, and this release does "
                "not encrypt traffic between hosts. On an isolated network set "
                "network.allow_plaintext = true; otherwise put a tunnel between the sites"
            )
    for member in config.raft.members:
        try:
            split_address(member)
        except ValueError as error:
            raise ConfigError(f"{path}: raft.members: {error}") from None
    raft = config.raft
    if not 50 <= raft.heartbeat_ms < raft.election_min_ms / 3 < raft.election_max_ms / 3:
        raise ConfigError(
            f"{path}: raft timings must satisfy 50 <= heartbeat_ms, 3 * heartbeat_ms < election_min_ms < "
            "election_max_ms"
        )
