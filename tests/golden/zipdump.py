#!/usr/bin/env python3
"""zipdump.py FILE...: print every zip field of a `.pt` file byte by byte (standard library only)."""
import struct
import sys


def dump(path, out=print):
    import os

    size = os.path.getsize(path)
    f = open(path, "rb")

    def rd(off, n):
        f.seek(off)
        return f.read(n)

    tail_at = max(0, size - 70000)
    tail = rd(tail_at, size - tail_at)
    e = tail.rfind(b"PK\5\6")
    if e < 0:
        out("no end-of-central-directory record: not a zip (legacy format?)")
        return
    eocd_at = tail_at + e
    sig, d1, d2, n1, n2, cds, cdo, cl = struct.unpack("<IHHHHIIH", tail[e : e + 22])
    out(f"== {path}: {size} bytes")
    out(f"EOCD   @{eocd_at} disk {d1} cddisk {d2} n {n1}/{n2} cdsize {cds:#x} cdofs {cdo:#x} comment {tail[e + 22 : e + 22 + cl]!r}")
    n = n2
    loc = rd(eocd_at - 20, 20)
    if loc[:4] == b"PK\6\7":
        _, disk, e64, disks = struct.unpack("<IIQI", loc)
        out(f"ZIP64L @{eocd_at - 20} disk {disk} eocd64@{e64} disks {disks}")
        r = struct.unpack("<IQHHIIQQQQ", rd(e64, 56))
        out(f"ZIP64E @{e64} size {r[1]} madeby {r[2]:#x} need {r[3]:#x} disk {r[4]}/{r[5]} n {r[6]}/{r[7]} cdsize {r[8]} cdofs {r[9]}")
        n, cds, cdo = r[7], r[8], r[9]
    q = cdo
    for _ in range(n):
        c = struct.unpack("<IHHHHHHIIIHHHHHII", rd(q, 46))
        assert c[0] == 0x02014B50
        nl, el, cl = c[10], c[11], c[12]
        name = rd(q + 46, nl)
        cex = rd(q + 46 + nl, el)
        csz, usz, lho = c[8], c[9], c[16]
        out(f"CD {name.decode('utf-8', 'replace')!r} madeby {c[1]:#x} need {c[2]:#x} flags {c[3]:#x} method {c[4]} time {c[5]:#x} date {c[6]:#x} crc {c[7]:#010x} csize {csz:#x} usize {usz:#x} extra {cex.hex() or '-'} comment {cl} disk {c[13]} iattr {c[14]} eattr {c[15]:#x} lho {lho:#x}")
        p = 0
        while p + 4 <= el:
            i, l = struct.unpack("<HH", cex[p : p + 4])
            if i == 1:
                v = list(struct.unpack(f"<{l // 8}Q", cex[p + 4 : p + 4 + l // 8 * 8]))
                if usz == 0xFFFFFFFF:
                    usz = v.pop(0)
                if csz == 0xFFFFFFFF:
                    csz = v.pop(0)
                if lho == 0xFFFFFFFF:
                    lho = v.pop(0)
                out(f"   CD zip64 extra: len {l} -> usize {usz} csize {csz} lho {lho}")
            p += 4 + l
        h = struct.unpack("<IHHHHHIIIHH", rd(lho, 30))
        assert h[0] == 0x04034B50
        lex = rd(lho + 30 + h[9], h[10])
        data = lho + 30 + h[9] + h[10]
        shown, p = [], 0
        while p + 4 <= len(lex):
            i, l = struct.unpack("<HH", lex[p : p + 4])
            body = lex[p + 4 : p + 4 + l]
            shown.append(f"id {i:#06x} len {l} " + (f"'{chr(body[0])}'*{l}" if body and body == body[:1] * l else body.hex()))
            p += 4 + l
        if p != len(lex):
            shown.append(f"+{len(lex) - p} stray bytes {lex[p:].hex()}")
        out(f"   LH @{lho} need {h[1]:#x} flags {h[2]:#x} method {h[3]} time {h[4]:#x} date {h[5]:#x} crc {h[6]:#010x} csize {h[7]:#x} usize {h[8]:#x} extralen {h[10]} [{'; '.join(shown)}] data@{data} (mod64 {data % 64}, mod4096 {data % 4096})")
        after = rd(data + csz, 24)
        out(f"   data {rd(data, min(csz, 40))!r}{'...' if csz > 40 else ''}")
        if after[:4] == b"PK\7\x08":
            w = 16 if after[16:18] == b"PK" else 24
            out(f"   DD {w} bytes {after[:w].hex()}")
        else:
            out("   no data descriptor")
        q += 46 + nl + el + cl
    out(f"CD ends @{q}, gap to zip64/EOCD {(eocd_at if loc[:4] != b'PK' + bytes([6, 7]) else e64) - q}")
    f.close()


if __name__ == "__main__":
    for a in sys.argv[1:]:
        dump(a)
