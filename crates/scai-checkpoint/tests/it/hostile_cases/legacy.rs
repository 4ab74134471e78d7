//! Lies of the format before torch 1.6, which has no checksums: every byte is the attacker's.

use super::{Cases, Expect};
use crate::forge::{int, ints, legacy_start, storage, tensor_over, text};

/// The object of the honest file; the storages with a sixth part, always None.
fn object() -> Vec<u8> {
    object_with(16, b"N")
}

fn object_with(numel: i64, view: &[u8]) -> Vec<u8> {
    let legacy = |class: &str, key: &str, numel: i64| {
        let mut id = storage(class, key, numel);
        id.truncate(id.len() - 2);
        [id, view.to_vec(), b"tQ".to_vec()].concat()
    };
    let weight = legacy("FloatStorage", "0", numel);
    [
        b"\x80\x02}(".to_vec(),
        text("weight"),
        tensor_over(&weight, 0, &[4, 4], &[4, 1]),
        text("tied"),
        tensor_over(&weight, 0, &[4, 4], &[1, 4]),
        text("step"),
        tensor_over(&legacy("LongStorage", "1", 2), 0, &[2], &[1]),
        text("lr"),
        b"G\x3f\xe0\0\0\0\0\0\0u.".to_vec(),
    ]
    .concat()
}

fn keys(keys: &[&str]) -> Vec<u8> {
    let texts = keys.iter().flat_map(|key| text(key)).collect();
    [b"\x80\x02](".to_vec(), texts, b"e.".to_vec()].concat()
}

fn data(count: i64, bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    count.to_le_bytes().into_iter().chain(bytes).collect()
}

fn storages() -> Vec<u8> {
    [data(16, 0..64), data(2, 100..116)].concat()
}

fn honest() -> Vec<u8> {
    [legacy_start(), object(), keys(&["0", "1"]), storages()].concat()
}

pub(super) fn add(cases: &mut Cases) {
    cases.add("legacy: the honest file", Expect::Same, honest);
    let len = honest().len();
    for at in (1..len).step_by(len / 12) {
        cases.refused(format!("legacy: cut at {at}"), "", move || honest()[..at].to_vec());
    }
    cases.refused("legacy: a byte behind", "bytes follow", || [honest(), vec![0]].concat());
    cases.add("legacy: a second file behind", Expect::Same, || honest().repeat(2));

    let lists: [(&str, Vec<u8>); 8] = [
        ("none", keys(&[])),
        ("one too few", keys(&["0"])),
        ("one too many", keys(&["0", "1", "2"])),
        ("one twice", keys(&["0", "0"])),
        ("other names", keys(&["../0", "/1"])),
        ("in another order", keys(&["1", "0"])),
        ("not strings", [b"\x80\x02](".to_vec(), int(0), int(1), b"e.".to_vec()].concat()),
        ("not a list", b"\x80\x02}.".to_vec()),
    ];
    for (what, list) in lists {
        cases.refused(format!("legacy: list of storages: {what}"), "", move || {
            [legacy_start(), object(), list.clone(), storages()].concat()
        });
    }
    for count in [0, 15, 17, 1 << 32, i64::MAX, -1, i64::MIN] {
        cases.refused(format!("legacy: {count} elements are said to follow"), "", move || {
            let storages = [data(count, 0..64), data(2, 100..116)].concat();
            [legacy_start(), object(), keys(&["0", "1"]), storages].concat()
        });
        cases.refused(format!("legacy: {count} elements on both sides"), "", move || {
            let storages = [data(count, 0..64), data(2, 100..116)].concat();
            [legacy_start(), object_with(count, b"N"), keys(&["0", "1"]), storages].concat()
        });
    }
    cases.refused("legacy: a storage that is a view", "a view of another", || {
        let view = [text("9"), int(0), int(4)].concat();
        let object = object_with(16, &[b"(", view.as_slice(), b"t"].concat());
        [legacy_start(), object, keys(&["0", "1"]), storages()].concat()
    });
    cases.refused("legacy: two references disagree", "disagree about its length", || {
        let lie = tensor_over(&storage("FloatStorage", "0", 8), 0, &[8], &[1]);
        let second = [text("x"), lie].concat();
        let mut object = object();
        object.truncate(object.len() - 2);
        [legacy_start(), object, second, b"u.".to_vec(), keys(&["0", "1"]), storages()].concat()
    });

    let magic = &legacy_start()[..15];
    let starts: [(&str, Vec<u8>); 7] = [
        ("version 1000", [magic, b"\x80\x02M\xe8\x03.\x80\x02}."].concat()),
        ("no version", [magic, b"\x80\x02N.\x80\x02}."].concat()),
        ("a huge version", [magic, b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x7f.\x80\x02}."].concat()),
        ("no byte order", [magic, b"\x80\x02M\xe9\x03.\x80\x02}."].concat()),
        ("big-endian", {
            let order = [text("little_endian"), b"\x89".to_vec()].concat();
            [magic, b"\x80\x02M\xe9\x03.\x80\x02}(", &order, b"u."].concat()
        }),
        ("system information that is no dict", [magic, b"\x80\x02M\xe9\x03.\x80\x02N."].concat()),
        ("nothing else", magic.to_vec()),
    ];
    for (what, start) in starts {
        cases.refused(format!("legacy: {what}"), "", move || {
            [start.clone(), object(), keys(&["0", "1"]), storages()].concat()
        });
    }
    cases.refused("legacy: os.system", "require running code (os.system)", || {
        let call = [b"cos\nsystem\n".to_vec(), text("true"), b"\x85R.".to_vec()].concat();
        [legacy_start(), b"\x80\x02".to_vec(), call, keys(&[])].concat()
    });
    cases.refused("legacy: os.system in front of the magic number", "", || {
        let call = [b"\x80\x02cos\nsystem\n".to_vec(), text("true"), b"\x85R0".to_vec()].concat();
        [call, honest()].concat()
    });
    cases.refused("legacy: 4 MiB of opened marks", "", || {
        [legacy_start(), b"\x80\x02".to_vec(), vec![b'('; 1 << 20]].concat()
    });
    cases.refused("legacy: system information of nested lists", "", || {
        let nested = [vec![b']'; 100_000], vec![b'a'; 99_999]].concat();
        [magic_and_version(), b"\x80\x02".to_vec(), nested, b".".to_vec()].concat()
    });
    cases.refused("legacy: a large number as a key of the system information", "", || {
        let number = [&b"\x8b"[..], &(600_000_u32).to_le_bytes(), &[0x7f; 600_000]].concat();
        let info = [&b"\x80\x02}"[..], &number, b"Ns."].concat();
        [magic_and_version(), info, object(), keys(&["0", "1"]), storages()].concat()
    });
    cases.refused("legacy: a storage as large as the address space", "", || {
        let huge = tensor_over(&storage("ByteStorage", "0", i64::MAX), 0, &[1], &[1]);
        let object = [b"\x80\x02".to_vec(), huge, b".".to_vec()].concat();
        [legacy_start(), object, keys(&["0"]), data(i64::MAX, [])].concat()
    });
    cases.refused("legacy: sizes whose product is too large", "", || {
        let shape = ints(&[1 << 40, 1 << 40]);
        let huge = [
            b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
            storage("FloatStorage", "0", 16),
            int(0),
            shape.clone(),
            shape,
            b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
        ];
        let object = [b"\x80\x02".to_vec(), huge.concat(), b".".to_vec()].concat();
        [legacy_start(), object, keys(&["0"]), data(16, 0..64)].concat()
    });
}

fn magic_and_version() -> Vec<u8> {
    legacy_start()[..21].to_vec()
}
