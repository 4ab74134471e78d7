"""`torch.distributed.checkpoint` (DCP) with scai's promises: ``dcp.save(state, storage_writer=StorageWriter(path))``.

The directories are DCP's own: its stock reader loads them.
"""

from scai.distributed._writer import StorageWriter

__all__ = ["StorageWriter"]
