"""Seeds for the fuzz targets, from the golden files: `make_seeds.py OUT` fills OUT/<target>/."""

import pathlib
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden" / "files"
# What comes before the object in a file of the legacy format.
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def main(out: pathlib.Path) -> None:
    for target in ("torch_zip", "pickle", "directory"):
        (out / target).mkdir(parents=True, exist_ok=True)
    for path in sorted(GOLDEN.rglob("*.pt")):
        data = path.read_bytes()
        if len(data) > 4000:
            continue
        name = f"{path.parent.name}-{path.stem}"
        (out / "torch_zip" / name).write_bytes(b"!" + data)
        if data.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                record = next(n for n in archive.infolist() if n.filename.endswith("data.pkl"))
                # Some files carry no CRC-32 on purpose, so the bytes are taken as they lie.
                start = record.header_offset
                names = int.from_bytes(data[start + 26 : start + 28], "little")
                extra = int.from_bytes(data[start + 28 : start + 30], "little")
                start += 30 + names + extra
                pickle = data[start : start + record.file_size]
                (out / "pickle" / name).write_bytes(b"\0" + pickle)
        elif data.startswith(LEGACY):
            # Magic, version and system information end at the third STOP that ends a pickle.
            third = data.index(b"u.", len(LEGACY)) + 2
            (out / "pickle" / name).write_bytes(b"\1" + data[third:])
    for i in range(16):
        (out / "directory" / f"seed{i}").write_bytes(bytes([i * 16 + i, i, 3 * i, 200, i]))


main(pathlib.Path(sys.argv[1]))
