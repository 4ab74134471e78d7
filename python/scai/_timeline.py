"""Where the time of a save goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeline:
    """Time the stages of a save took, in seconds.

    A save in the background goes on while training does: only `waited` is lost to it. The stages
    follow one another, and the checkpoint is durable after `commit`.

    Attributes:
        waited: training waited for the save: in the call, which takes the snapshot, and before a
            step for what was read live.
        plan: planning the file, and pickling.
        write: creating the file with room for all bytes; hashing and writing them.
        sync: syncing its content to the device.
        commit: renaming it to its final name, and syncing the directory.
        after: moving `latest.pt`, and retention, which reads back what stays.
    """

    waited: float
    plan: float
    write: float
    sync: float
    commit: float
    after: float

    @property
    def total(self) -> float:
        """All stages together, without what training waited."""
        return self.plan + self.write + self.sync + self.commit + self.after
