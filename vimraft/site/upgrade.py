"""Before another release touches what the one before left: a backup of it.

May live here: noticing the change of release and taking that backup, before the log is opened for writing. It
never keeps a manager from starting: what went wrong is said, and shown as a problem.
"""

import structlog

from vimraft import __version__
from vimraft.core.levels import LATEST
from vimraft.metadata.pysyncobj import offline
from vimraft.site.backups import BackupDirectory, LastRun, read_last_run
from vimraft.site.config import Config
from vimraft.site.directory import StartError
from vimraft.site.rebuild import header_of_log, read_log

log = structlog.get_logger(__name__)


def backup_before_upgrade(config: Config) -> str:
    """What went wrong; '' if nothing did. Blocks while it reads the log."""
    if read_last_run(config.data_dir) == LastRun(__version__, LATEST):
        return ""
    if not offline.holds_log(config.data_dir / "raft"):
        return ""
    directory = BackupDirectory(config.data_dir, config.backup)
    try:
        found = read_log(config)
        if found is None or not found.committed.cluster_id:
            return ""
        header = header_of_log(config, found, found.committed, config.manager)
        path = directory.take(header, found.committed)
    except StartError as error:
        return f"no backup before the upgrade: {error}"  # opening the log says it again, and stops
    except OSError as error:
        return f"no backup before the upgrade in {directory.path}: {error.strerror or error}"
    log.info("backup.taken", path=str(path), occasion="before-upgrade")
    return ""
