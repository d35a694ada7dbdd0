"""How nbdkit is started."""

from pathlib import Path

import pytest

from vimraft.data.launch import LaunchError, choose_thread_model, nbdkit_version, plan_launch

SCRIPT = Path(__file__).resolve().parents[3] / "nbd_plugin" / "export.py"
PARAMS = {"feed": "/run/f", "lock": "/run/l", "manager": "a"}


@pytest.mark.parametrize(
    ("version", "tls", "model"),
    [
        ((1, 32, 5), False, "serialize"),
        ((1, 32, 5), True, "parallel"),
        ((1, 33, 12), False, "serialize"),
        ((1, 34, 0), False, "parallel"),
        ((1, 42, 1), False, "parallel"),
        ((2, 0, 0), False, "parallel"),
    ],
)
def test_requests_run_parallel_only_where_a_dying_client_cannot_abort_the_server(
    version: tuple[int, int, int], tls: bool, model: str
) -> None:
    assert choose_thread_model(version, tls=tls) == model


def test_the_environment_is_debians_alone() -> None:
    launch = plan_launch(
        "export", script=SCRIPT, params=PARAMS, listen_fds=[9], packages=("/v/site-packages",)
    )
    assert launch.env["PATH"].startswith("/usr/sbin:/usr/bin")
    assert set(launch.env) == {"PATH", "LANG", "VIMRAFT_SITE_PACKAGES"}
    assert launch.env["VIMRAFT_SITE_PACKAGES"] == "/v/site-packages"
    assert launch.pass_fds == (9,)
    assert launch.argv[0] == "/usr/bin/python3"
    assert {"feed=/run/f", "lock=/run/l", "manager=a", "listen=1"} <= set(launch.argv)
    assert f"model={launch.thread_model}" in launch.argv


@pytest.mark.parametrize("missing", ["feed", "lock", "manager"])
def test_a_missing_parameter_is_named(missing: str) -> None:
    params = {key: value for key, value in PARAMS.items() if key != missing}
    with pytest.raises(LaunchError, match=f"{missing}="):
        plan_launch("export", script=SCRIPT, params=params, listen_fds=[])


def test_a_missing_plugin_or_nbdkit_is_named_with_the_remedy() -> None:
    with pytest.raises(LaunchError, match=r"/nowhere/export\.py"):
        plan_launch("export", script=Path("/nowhere/export.py"), params=PARAMS, listen_fds=[])
    with pytest.raises(LaunchError, match="Debian packages"):
        nbdkit_version("/nowhere/nbdkit")
