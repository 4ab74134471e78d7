"""Checks the event files against TensorBoard itself.

    pip install tensorboard
    python tensorboard.py golden          writes golden/tensorboard.events beside this file
    python tensorboard.py show DIRECTORY  prints what TensorBoard reads, as JSON

What is printed is {tag: [[step, value], ...]}.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # the directory of this file, which has the name of the package

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def golden(path):
    def scalars(**values):
        return Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()])

    first = scalars(**{"loss/policy": 0.1, "loss/value": 0.0, "win_rate": float("nan")})
    time = 1764000000
    events = [
        Event(wall_time=time + 0.25, file_version="brain.Event:2"),
        Event(wall_time=time + 0.25, step=101, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=time + 1.5, step=101, summary=first),
        Event(wall_time=time + 2.75, step=1 << 40, summary=scalars(**{"größe": -1e30})),
    ]
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def show(directory):
    accumulator = EventAccumulator(directory, size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    read = {tag: [[e.step, e.value] for e in accumulator.Scalars(tag)] for tag in tags}
    print(json.dumps(read))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["golden"]:
            golden(Path(__file__).parent / "golden" / "tensorboard.events")
        case ["show", directory]:
            show(directory)
        case _:
            sys.exit(__doc__)
