#!/usr/bin/env python3
"""Makes the recordings beside this file from full ones: compact.py <folder with one folder per scenario>.

Owns the format, which is one JSON object per line, in the order of the revisions, with the milliseconds since the
first endpoint was written:

    {"ms": 0, "step": "01-setup"}                 what follows belongs to this step
    {"ms": 0, "put": "/calico/…", "value": {…}}   one key was written; no "value": with the value that it has already;
                                                  "text" instead of "value": what was written is not JSON
    {"ms": 0, "delete": "/calico/…"}              one key was deleted
    {"ms": 0, "runs": "<port>", "host": "<name>"} where the virtual machine runs from now on; null is nowhere

Only keys that an agent reads are here. Where virtual machines run was not recorded; those lines are made by the rules
of the script for the engine's recordings, from which the rest of this one is taken, too.
"""

import importlib.util
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ENGINE = HERE / "../../agent/engine/tests/recordings/compact.py"
READ = ("workloadendpoints", "livemigrations", "felixconfigurations", "clusterinformations")

spec = importlib.util.spec_from_file_location("engine_recordings", ENGINE)
engine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(engine)


class Scenario(engine.Scenario):
    def __init__(self, folder):
        super().__init__(folder)
        self.values = {}

    def preface(self):
        """What was written before the first step: configuration, no endpoint."""
        for line in (self.folder / "watch.log").read_text().splitlines():
            if line.startswith("# ===="):
                return
            if not line.startswith("#"):
                event = json.loads(line)
                if any(f"/{kind}/" in event["key"] for kind in READ):
                    yield self.record(event)

    def record(self, event):
        key = event["key"]
        if event["type"] == "DELETE":
            self.values.pop(key, None)
            return {"delete": key}
        value = event["value"]
        if self.values.get(key) == value:
            return {"put": key}
        self.values[key] = value
        return {"put": key, "text" if isinstance(value, str) else "value": value}

    def write(self, event):
        at, _ = super().write(event)
        return at, self.record(event)

    def moves(self, step, ongoing, before, lines):
        mark = {"step": step["file"].removesuffix(".json")}
        ports = {number: port for port, number in self.ports.items()}
        named = []
        for at, line in super().moves(step, ongoing, before, lines):
            if isinstance(line, str):
                _, host, number = line.split(" ")
                line = {"runs": ports[number], "host": None if host == "-" else host}
            named.append((at, line))
        return [(named[0][0] if named else before, mark), *named]

    def objects(self):
        self.collect()
        start = self.lines[0][0]
        yield from ({"ms": 0, **line} for line in self.preface())
        yield from ({"ms": round(at - start), **line} for at, line in self.lines)


def main():
    for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in Scenario(folder).objects())
        (HERE / f"{folder.name}.jsonl").write_text("".join(lines))


main()
