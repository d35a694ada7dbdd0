"""What netns-cluster mounts on itself it finds again, so that `down` leaves nothing mounted."""

import subprocess
from pathlib import Path

from drills.namespaces import is_mounted

from tests.fault.drill_cases import needs_root


@needs_root
def test_a_directory_that_is_mounted_on_itself_is_seen(tmp_path: Path) -> None:
    directory = tmp_path / "a cluster"
    directory.mkdir()
    assert not is_mounted(directory)
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        assert not directory.is_mount(), "then the standard library's way would do"
        assert is_mounted(directory)
    finally:
        subprocess.run(["umount", directory], check=True)
    assert not is_mounted(directory)
