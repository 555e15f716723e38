"""The example of docs/handover.md under a real systemd: a unit takes incidents over, outside of the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from configuration import MEMORY, NOTIFY, config_of
from harness import wait_for
from systemd_machine import UNITS, Machine

CONFIG = (
    config_of(
        MEMORY,
        triggers=(NOTIFY,),
        pressure={"on_pressure": "proceed"},
        on_archived={
            "argv": ["/usr/bin/systemctl", "start", "collector-ship@{incident}.service"],
            "timeout": "15m",
            "retry_after": "0.1s",
        },
    )
    .replace("$archive", "/var/lib/collector")
    .replace("$runtime", "/run/collector")
)
SHIP = """#!/bin/sh
mkdir /run/failed 2>/dev/null && exit 1
echo "$1 $2" $(ls "$2/manifest.json") >> /run/shipped
"""
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    example = (UNITS / "examples/collector-ship@.service").read_text(encoding="utf-8")
    # Neither the network's target nor what is below /usr/local exists on this machine.
    example = "\n".join(line for line in example.splitlines() if "network-online" not in line)
    example = example.replace("/usr/local/bin/ship-incident", "/bin/sh /run/ship-incident")
    writes = "[Service]\nReadWritePaths=/run\n"
    units = {"collector-ship@.service": example, "collector-ship@.service.d/test.conf": writes}
    opened = Machine(tmp_path_factory.mktemp("machine"), units)
    yield opened
    opened.close()


def test_handover_by_a_unit_of_its_own(machine: Machine) -> None:
    """The daemon's sandbox lets systemctl start it and wait: its failure is one of the handover, which is repeated."""
    machine.run("sh", "-c", f"cat > /run/ship-incident <<'EOF'\n{SHIP}EOF")
    assert machine.configure(CONFIG).returncode == 0
    incident = json.loads(machine.run("collector", "run", "--now", "--json").stdout)["incident"]

    def handover() -> dict[str, object]:
        return json.loads(machine.run("collector", "show", incident, "--json").stdout)["story"]["handover"]

    wait_for(lambda: handover()["state"] != "waiting", "end of the handover")
    assert (handover()["state"], handover()["tries"]) == ("done", 2)
    where = f"/var/lib/collector/{incident}"
    assert machine.run("cat", "/run/shipped").stdout.split() == [incident, where, f"{where}/manifest.json"]
    assert machine.show(f"collector-ship@{incident}.service", "Result") == "success"
