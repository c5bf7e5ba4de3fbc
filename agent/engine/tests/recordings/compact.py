#!/usr/bin/env python3
"""Makes the recordings beside this file from full ones: compact.py <folder with one folder per scenario>.

Owns the format, which is one line per write of an endpoint or a LiveMigration, in the order of the revisions:

    <milliseconds> <op> WEP <host> <port> <prefixes>
    <milliseconds> <op> LM <host in the key> <port> <uid> <source host> <target host>
    <milliseconds> VM <host> <port>

Operations: + created, ~ changed, = rewritten with the same value, - deleted. A value that cannot be read is ?.
The VM lines are not recorded, because no virtual machine took part: they say where it would run, by the host of
the port after each step. "-" is nowhere. A virtual machine moves live 0.5 s before the step that ends its migration.
"""

import json
import pathlib
import sys
from datetime import datetime

PREFIX = "/calico/resources/v3/projectcalico.org/"


def milliseconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


class Scenario:
    def __init__(self, folder):
        self.folder = folder
        self.steps = json.loads((folder / "steps.json").read_text())
        self.ports = {}
        self.uids = {}
        self.alive = {}
        self.migrating = set()
        self.lines = []

    def port(self, port_id):
        return self.ports.setdefault(port_id, str(len(self.ports) + 1))

    def writes(self):
        """Writes of endpoints and migrations by step."""
        step, writes = None, {}
        for line in (self.folder / "watch.log").read_text().splitlines():
            if line.startswith("# ===="):
                step = line.split()[2]
            elif not line.startswith("#"):
                event = json.loads(line)
                if "/workloadendpoints/" in event["key"] or "/livemigrations/" in event["key"]:
                    writes.setdefault(step, []).append(event)
        return writes

    def write(self, event):
        kind = "LM" if "/livemigrations/" in event["key"] else "WEP"
        name = event["key"].rsplit("/", 1)[1]
        segments = [s.replace("\0", "-") for s in name.replace("--", "\0").split("-")]
        host, port = segments[0], self.port(segments[3])
        if event["type"] == "DELETE":
            op, rest = "-", []
        else:
            op = "+" if event["created"] else "=" if event.get("same_value_as_before") else "~"
            rest = self.value(kind, event["value"])
        if kind == "LM":
            (self.migrating.discard if op == "-" else self.migrating.add)((host, port))
        return milliseconds(event["t"]), " ".join([op, kind, host, port, *rest])

    def value(self, kind, value):
        try:
            if kind == "LM":
                uid = self.uids.setdefault(value["metadata"]["uid"], f"u{len(self.uids) + 1}")
                ends = [value["spec"][end]["workloadEndpoint"]["hostname"] for end in ("source", "target")]
                return [uid, *ends]
            spec = value["spec"]
            prefixes = [p for p in spec["ipNetworks"] if p.count("/") == 1]
            prefixes += [nat["externalIP"] + "/32" for nat in spec.get("ipNATs", [])]
            return [",".join(prefixes)]
        except (TypeError, KeyError):
            return ["?"]

    def run(self):
        self.collect()
        start = self.lines[0][0]
        return [f"{round(at - start)} {text}" for at, text in self.lines]

    def collect(self):
        writes = self.writes()
        last = None
        for step in self.steps:
            events = writes.get(step["file"].removesuffix(".json"), [])
            ongoing = set(self.migrating)
            lines = [self.write(event) for event in events]
            began = lines[0][0] if lines else milliseconds(step["began"])
            last = began if last is None else last
            self.lines += self.moves(step, ongoing, max(began - 500, (last + began) / 2), lines)
            last = max([last, *(at for at, _ in self.lines)])

    def moves(self, step, ongoing, before, lines):
        """The lines of one step with those of the virtual machines among them."""
        ports = step["neutron_ports_after"]
        if not isinstance(ports, list):
            return lines
        after = {
            self.ports[port["id"]]: port["binding:host_id"]
            for port in ports
            if port["id"] in self.ports and port["binding:host_id"] and port["device_owner"] == "compute:nova"
        }
        early, late = [], []
        for port in sorted(set(self.alive) | set(after)):
            host, host_before = after.get(port), self.alive.get(port)
            if host == host_before:
                continue
            live = host_before and (host, port) in ongoing
            if host_before and not live:
                early.append((before, f"VM - {port}"))
            if host:
                moment = before if live else lines[-1][0] + 100
                (early if live else late).append((moment, f"VM {host} {port}"))
        self.alive = after
        return early + lines + late


def main():
    source, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        lines = Scenario(folder).run()
        (here / f"{folder.name}.txt").write_text("".join(line + "\n" for line in lines))


if __name__ == "__main__":
    main()
