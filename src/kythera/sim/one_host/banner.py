"""What a person sees when a fleet on one computer is ready. Pure."""

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from kythera.sim.one_host.plan import FleetFile


def banner(fleet: FleetFile, folder: Path, command: str) -> str:
    """Return where the machines serve and what to type next."""
    first, last = fleet.machines[0], fleet.machines[-1]
    state = shlex.quote(str(folder))
    sites = len({machine.site for machine in fleet.machines})
    port = urlsplit(first.http).port
    rows = [
        f"  {each.name:<4} {each.site:<5} {'core' if each.core else '':<5} {each.http:<24} {each.api}"
        for each in fleet.machines
    ]
    return "\n".join(
        [
            "",
            f"A fleet is up: {len(fleet.machines)} machines, {sites} sites.",
            "",
            *rows,
            "",
            "Deploy to it, and ask any machine:",
            "",
            f"  {command} deploy --state {state} PATH",
            f"  curl http://WORKER.localhost:{port}/",
            f"  curl -H 'Host: WORKER.localhost' {last.http}/",
            "",
            "See it, and trouble it, from another terminal:",
            "",
            f"  {command} status --state {state}",
            f"  {command} fleet --state {state} kill {last.name}",
            f"  {command} fleet --state {state} revive {last.name}",
            f"  {command} fleet --state {state} cut {first.name} {last.name}",
            f"  {command} fleet --state {state} heal",
            "",
            "Press Ctrl-C to stop all; what is deployed is served again at the next start.",
            "",
        ]
    )
