#!/usr/bin/env python3
"""check_roundtrip.py FILES_DIR REWRITTEN_DIR

For every NAME.pt + NAME.json below FILES_DIR (not in refused/) whose counterpart
lies at the same relative path in REWRITTEN_DIR, check the rewritten file with the
real torch (made for 2.15) and compare with NAME.json bit for bit:

  plain      torch.load(weights_only=True)          description equal
  mmap       the same with mmap=True (zip only)     description equal
  offsets    the same with mmap=True and config.load.calculate_storage_offsets
  fake       under FakeTensorMode                   shapes, dtypes, strides equal
  tree       pickle_tree.py (no torch)              description, storage locations equal
  crc        every CRC-32 in the zip is right (or 0)

weights_only=False is used only where torch refuses the ORIGINAL with True. Where
this torch describes the original differently from the version that wrote it
(NAME.json), the rewritten file must load as this torch loads the original.
REWRITTEN_DIR/refused.txt lists relative paths that the rewriter refused.
One line per file that differs, then `N passed, M failed`; exits 1 on failure.
"""
import json
import os
import sys
import warnings
import zipfile
import zlib

warnings.simplefilter("ignore")
import torch  # noqa: E402

import pickle_tree  # noqa: E402
from describe import describe  # noqa: E402

try:
    from torch.utils.serialization import config
except ImportError:
    config = None


def canonical(d):
    return json.loads(json.dumps({"root": d["root"], "storages": d["storages"]}))


def load(path, safe, **kw):
    return torch.load(path, map_location="cpu", weights_only=safe, **kw)


def fake(path, safe):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        o = load(path, safe)
    return canonical({**describe(o, data=False), "storages": []})["root"]


def mmap_offsets(path, safe):
    config.load.calculate_storage_offsets = True
    try:
        return canonical(describe(load(path, safe, mmap=True)))
    finally:
        config.load.calculate_storage_offsets = False


def is_zip(path):
    with open(path, "rb") as f:
        return f.read(4) == b"PK\3\4"


def first_difference(a, b, at="root"):
    if type(a) is not type(b):
        return f"{at}: {a!r:.80} / {b!r:.80}"
    if isinstance(a, dict):
        if a.get("t") != b.get("t"):
            return f"{at}: {a.get('t')} / {b.get('t')}"
        for k in sorted(set(a) | set(b)):
            if k not in a or k not in b:
                return f"{at}.{k}: only on one side"
            if a[k] != b[k]:
                return first_difference(a[k], b[k], f"{at}.{k}")
    if isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b)):
            if x != y:
                return first_difference(x, y, f"{at}[{i}]")
        return f"{at}: length {len(a)} / {len(b)}"
    return f"{at}: expected {a!r:.80}, got {b!r:.80}"


def attempt(f, *a, **kw):
    try:
        return f(*a, **kw), None
    except Exception as e:
        return None, f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:140]}"


COUNTS = {}  # how many files each check looked at


def count(label):
    COUNTS[label] = COUNTS.get(label, 0) + 1


def check(orig, new, meta):
    """List of complaints about `new`."""
    bad = []
    want = canonical(meta)
    got, err = attempt(lambda: canonical(describe(load(orig, True))))
    safe = err is None
    if not safe:
        got, err = attempt(lambda: canonical(describe(load(orig, False))))
        if err:  # this torch cannot load the original at all: the rewritten file must be safe and right
            safe, got = True, want
    # what this torch makes of the original (some rebuild functions take other arguments in other versions)
    expected = got
    if got != want:
        count("described anew by this torch")
    if not safe:
        count("weights_only=False")

    def compare(label, f):
        count(label)
        d, e = attempt(f)
        if e:
            bad.append(f"{label}: {e}")
        elif d != expected:
            bad.append(f"{label}: {first_difference(expected, d)}")

    if safe:
        modes = [True]
    else:  # a rewriter may well make a file that is safe of one that is not
        modes = [attempt(load, new, True)[1] is None]
    w = modes[0]
    compare("plain", lambda: canonical(describe(load(new, w))))
    if is_zip(new):
        compare("mmap", lambda: canonical(describe(load(new, w, mmap=True))))
        if config is not None and hasattr(config, "load"):
            compare("offsets", lambda: mmap_offsets(new, w))
    # torch 2.15 crashes (SIGSEGV in byteswap) on a big-endian file under FakeTensorMode
    big = pickle_tree.read(orig)[1]["big_endian"]
    f, err = (None, "big") if big else attempt(fake, orig, safe)
    if err is None:
        count("fake")
        g, e = attempt(fake, new, w)
        if e:
            bad.append(f"fake: {e}")
        elif f != g:
            bad.append(f"fake: {first_difference(f, g)}")
    count("tree")
    t, e = attempt(pickle_tree.read, new)
    if e:
        bad.append(f"tree: {e}")
    else:
        d, info = t
        if d is None:
            bad.append(f"tree: must be refused: {info['refused']} {info['opcodes']}")
        elif canonical(d) != want:
            bad.append(f"tree: {first_difference(want, canonical(d))}")
        loc = pickle_tree.read(orig)[1]["locations"]
        if loc != info["locations"]:
            bad.append(f"tree: locations {loc} / {info['locations']}")
    if is_zip(new):
        with zipfile.ZipFile(new) as z:
            names = z.namelist()
            if len(names) != len(set(names)):
                bad.append("zip: two records of one name")
            for i in z.infolist():
                with z.open(i) as r:
                    r._expected_crc = None
                    if i.CRC and zlib.crc32(r.read()) != i.CRC:
                        bad.append(f"crc: {i.filename}")
    return bad


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    files, rewritten = sys.argv[1:]
    refused = set()
    p = os.path.join(rewritten, "refused.txt")
    if os.path.exists(p):
        with open(p, encoding="utf-8") as f:
            refused = {line.strip().replace(os.sep, "/") for line in f if line.strip()}
    passed = failed = absent = n_refused = 0
    for d, dirs, names in os.walk(files):
        dirs[:] = sorted(x for x in dirs if x != "refused")
        for n in sorted(names):
            if not n.endswith(".pt"):
                continue
            orig = os.path.join(d, n)
            rel = os.path.relpath(orig, files).replace(os.sep, "/")
            new = os.path.join(rewritten, rel)
            if not os.path.exists(new):
                if rel in refused:
                    n_refused += 1
                else:
                    absent += 1
                continue
            with open(orig[:-2] + "json", encoding="utf-8") as f:
                meta = json.load(f)
            bad = check(orig, new, meta)
            if rel in refused:
                bad.append("listed in refused.txt, but written")
            if bad:
                failed += 1
                print(f"{rel} | " + " | ".join(bad))
            else:
                passed += 1
    print("checks made: " + ", ".join(f"{k} {v}" for k, v in COUNTS.items()))
    print(f"refused by the rewriter: {n_refused}, without counterpart: {absent}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
