"""`torch.distributed.checkpoint` (DCP) with scai's promises.

``dcp.save(state, storage_writer=StorageWriter(path))`` and ``dcp.load(state, storage_reader=StorageReader(path))``.
The directories are DCP's own: its stock reader loads what the writer writes, and the reader loads what the stock
writer wrote.
"""

from scai.distributed._reader import StorageReader
from scai.distributed._writer import StorageWriter

__all__ = ["StorageReader", "StorageWriter"]
