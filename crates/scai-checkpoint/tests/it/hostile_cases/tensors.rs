//! Lies about tensors and storages: types, lengths, shapes, keys.

use super::{Cases, Expect, program, with_pickle};
use crate::forge::{Member, honest, int, ints, storage, tensor, tensor_over, text};

pub(super) fn add(cases: &mut Cases) {
    shapes(cases);
    references(cases);
    arguments(cases);
    records(cases);
}

/// A tensor over the 64 bytes of storage 0.
fn view(offset: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    program(&[&tensor("FloatStorage", "0", 16, offset, shape, stride)])
}

fn shapes(cases: &mut Cases) {
    const MAX: i64 = i64::MAX;
    let outside = "";
    let lies: [(&str, i64, &[i64], &[i64]); 22] = [
        ("one element too many", 0, &[17], &[1]),
        ("an offset of one too many", 1, &[16], &[1]),
        ("an offset behind the end", 17, &[1], &[1]),
        ("the largest offset", MAX, &[1], &[1]),
        ("a negative offset", -1, &[1], &[1]),
        ("a negative size", 0, &[-1], &[1]),
        ("two negative sizes", 0, &[-4, -4], &[4, 1]),
        ("a negative stride", 15, &[16], &[-1]),
        ("a stride of one too many", 0, &[2, 8], &[9, 1]),
        ("the largest stride", 0, &[2], &[MAX]),
        ("the smallest stride", 0, &[2], &[i64::MIN]),
        ("the largest size", 0, &[MAX], &[1]),
        ("a size whose bytes overflow", 0, &[1 << 62], &[1]),
        ("sizes whose product overflows", 0, &[1 << 32, 1 << 32], &[0, 0]),
        ("sizes whose product overflows to the right one", 0, &[1 << 32, 1 << 32, 16], &[0, 0, 1]),
        ("a product that overflows beside a zero", 0, &[1 << 40, 0, 1 << 40], &[1, 1, 1]),
        ("a last element that overflows", 0, &[3, 3], &[1 << 62, 1 << 62]),
        ("fewer strides than sizes", 0, &[4, 4], &[1]),
        ("more strides than sizes", 0, &[16], &[1, 1]),
        ("no strides", 0, &[16], &[]),
        ("no sizes", 0, &[], &[1]),
        ("an element behind a zero offset", 16, &[], &[]),
    ];
    for (what, offset, shape, stride) in lies {
        cases.pickle(format!("a tensor with {what}"), outside, move || view(offset, shape, stride));
    }
    for rank in [65, 1000, 100_000] {
        cases.pickle(format!("a tensor of {rank} dimensions"), "dimensions", move || {
            view(0, &vec![1; rank], &vec![1; rank])
        });
    }
    for shape in [&[1 << 40][..], &[1 << 20, 1 << 20], &[1 << 62]] {
        // `torch.zeros(1).expand(1 << 40)` is such a tensor: a view of one element.
        cases.add(format!("one element seen as {shape:?}"), Expect::Loads, move || {
            with_pickle(view(0, shape, &vec![0; shape.len()]))
        });
    }
    cases.add("an empty tensor with the largest offset and strides", Expect::Loads, || {
        with_pickle(view(MAX, &[0, MAX], &[MAX, MAX]))
    });
}

fn references(cases: &mut Cases) {
    for numel in [0, 1, 15, 17, 32, 1 << 32, 1 << 61, 1 << 62, i64::MAX, -1, i64::MIN] {
        cases.pickle(format!("a storage of {numel} elements"), "", move || {
            program(&[&tensor("FloatStorage", "0", numel, 0, &[1], &[1])])
        });
    }
    for (class, numel) in [("DoubleStorage", 16), ("ByteStorage", 16), ("ComplexDoubleStorage", 16)]
    {
        cases.pickle(format!("a {class} of {numel}"), "the pickle refers to", move || {
            program(&[&tensor(class, "0", numel, 0, &[1], &[1])])
        });
    }
    let keys: [&str; 16] = [
        "2",
        "00",
        "",
        "-1",
        "0\0",
        " 0",
        "0 ",
        "٠",
        "../data.pkl",
        "../data/0",
        "0/../1",
        "/0",
        "..",
        "0/",
        "C:\\0",
        "data/0",
    ];
    for key in keys {
        cases.pickle(format!("the storage {key:?}"), "the record is missing", move || {
            program(&[&tensor("FloatStorage", key, 16, 0, &[1], &[1])])
        });
    }
    cases.pickle("a storage with a key of 1 MiB", "the record is missing", || {
        program(&[&tensor("FloatStorage", &"0".repeat(1 << 20), 16, 0, &[1], &[1])])
    });
    cases.pickle("a storage with a key that moves the cursor", "\\u{1b}", || {
        program(&[&tensor("FloatStorage", "\x1b[2J", 16, 0, &[1], &[1])])
    });
    let ids: [(&str, Vec<u8>, &str); 12] = [
        ("a number", b"K\x05Q".to_vec(), "expected a tuple"),
        ("a string", [text("storage"), b"Q".to_vec()].concat(), "expected a tuple"),
        ("an empty tuple", b")Q".to_vec(), "not a storage"),
        ("a list", b"]Q".to_vec(), "expected a tuple"),
        ("of a module", id("module", b"ctorch\nFloatStorage\n", "0", 16), "built on a class"),
        ("of no kind", id("", b"ctorch\nFloatStorage\n", "0", 16), "of kind"),
        ("of no class", id("storage", b"N", "0", 16), "the class of a storage"),
        ("of a dtype", id("storage", b"ctorch\nfloat32\n", "0", 16), "the class of a storage"),
        ("of a tensor", id("storage", b"ctorch\nTensor\n", "0", 16), "the class of a storage"),
        ("of itself", b"]q\0h\0aQ".to_vec(), "expected a tuple"),
        (
            "with a view",
            {
                let id = id("storage", b"ctorch\nFloatStorage\n", "0", 16);
                [&id[..id.len() - 2], b")tQ"].concat()
            },
            "a view of another",
        ),
        (
            "with seven parts",
            {
                let id = id("storage", b"ctorch\nFloatStorage\n", "0", 16);
                [&id[..id.len() - 2], b"NNtQ"].concat()
            },
            "not a storage",
        ),
    ];
    for (what, id, words) in ids {
        cases.pickle(format!("a persistent id {what}"), words, move || {
            program(&[&tensor_over(&id, 0, &[1], &[1])])
        });
    }
    cases.pickle("two references that disagree about the length", "the pickle refers to", || {
        let one = tensor("FloatStorage", "0", 16, 0, &[16], &[1]);
        let two = tensor("FloatStorage", "0", 15, 0, &[15], &[1]);
        program(&[&one, &two, b"\x86"])
    });
}

/// A persistent id of any kind and class.
fn id(kind: &str, class: &[u8], key: &str, numel: i64) -> Vec<u8> {
    [b"(".to_vec(), text(kind), class.into(), text(key), text("cpu"), int(numel), b"tQ".into()]
        .concat()
}

fn arguments(cases: &mut Cases) {
    let good = storage("FloatStorage", "0", 16);
    // offset, size, stride, requires_grad, hooks
    let call = move |parts: [&[u8]; 5], rest: &[u8]| {
        let start = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        let parts = parts.concat();
        program(&[&start, &good, &parts, rest, b"tR"])
    };
    let one = ints(&[1]);
    let hooks = b"ccollections\nOrderedDict\n)R";
    let wrong: [(&str, [&[u8]; 5], &[u8], &str); 16] = [
        (
            "an offset that is a float",
            [b"G\0\0\0\0\0\0\0\0", &one, &one, b"\x89", hooks],
            b"",
            "expected an integer",
        ),
        (
            "an offset that is a bool",
            [b"\x88", &one, &one, b"\x89", hooks],
            b"",
            "expected an integer",
        ),
        (
            "an offset of 10 bytes",
            [b"\x8a\x0a\0\0\0\0\0\0\0\0\0\x01", &one, &one, b"\x89", hooks],
            b"",
            "",
        ),
        (
            "a size that is a list",
            [b"K\0", b"]K\x01a", &one, b"\x89", hooks],
            b"",
            "expected a tuple",
        ),
        (
            "a size of strings",
            [b"K\0", b"X\x01\0\0\x001\x85", &one, b"\x89", hooks],
            b"",
            "expected an integer",
        ),
        ("a size that is None", [b"K\0", b"N", &one, b"\x89", hooks], b"", "expected a tuple"),
        ("a size of itself", [b"K\0", b"]q\0h\0\x85a", &one, b"\x89", hooks], b"", ""),
        ("a stride that is a dict", [b"K\0", &one, b"}", b"\x89", hooks], b"", "expected a tuple"),
        (
            "a gradient that is a number",
            [b"K\0", &one, &one, b"K\x01", hooks],
            b"",
            "expected a bool",
        ),
        ("hooks", [b"K\0", &one, &one, b"\x89", b"}K\x01cos\nsystem\ns"], b"", "os.system"),
        (
            "hooks that are numbers",
            [b"K\0", &one, &one, b"\x89", b"}K\x01K\x02s"],
            b"",
            "backward hooks",
        ),
        ("hooks that are a list", [b"K\0", &one, &one, b"\x89", b"]"], b"", "backward hooks"),
        ("metadata that is a list", [b"K\0", &one, &one, b"\x89", hooks], b"]", "tensor metadata"),
        (
            "unknown metadata",
            [b"K\0", &one, &one, b"\x89", hooks],
            b"}X\x01\0\0\0xK\x01s",
            "tensor metadata",
        ),
        (
            "metadata of the wrong type",
            [b"K\0", &one, &one, b"\x89", hooks],
            b"}X\x04\0\0\0conjK\x01s",
            "expected a bool",
        ),
        ("too many arguments", [b"K\0", &one, &one, b"\x89", hooks], b"NN", "arguments"),
    ];
    for (what, parts, rest, words) in wrong {
        let file = call(parts, rest);
        cases.pickle(format!("a tensor with {what}"), words, move || file.clone());
    }
    let untyped = || {
        let class = b"ctorch.storage\nUntypedStorage\n".as_slice();
        id("storage", class, "0", 64)
    };
    cases.pickle(
        "a tensor of no type over an untyped storage",
        "without an element type",
        move || program(&[&tensor_over(&untyped(), 0, &[1], &[1])]),
    );
    for (what, dtype, shape) in [
        ("a type that is a string", text("float32"), 1),
        ("a type that is a class", b"ctorch\nFloatStorage\n".to_vec(), 1),
        ("a type too wide for its shape", b"ctorch\ncomplex128\n".to_vec(), 5),
        ("a type that does not exist", b"ctorch\nfloat7\n".to_vec(), 1),
    ] {
        cases.pickle(format!("a tensor with {what}"), "", move || {
            let start = b"ctorch._utils\n_rebuild_tensor_v3\n(".to_vec();
            let dims = [int(0), ints(&[shape]), ints(&[1])].concat();
            let end = [b"\x89ccollections\nOrderedDict\n)R".to_vec(), dtype.clone()].concat();
            program(&[&start, &untyped(), &dims, &end, b"tR"])
        });
    }
    let parameters: [(&str, &[u8]); 4] = [
        ("None", b"N"),
        ("a number", b"K\x01"),
        ("a list", b"]"),
        ("a storage's class", b"ctorch\nFloatStorage\n"),
    ];
    for (what, data) in parameters {
        cases.pickle(format!("a parameter of {what}"), "", move || {
            let hooks = b"ccollections\nOrderedDict\n)R";
            program(&[b"ctorch._utils\n_rebuild_parameter\n", data, b"\x88", hooks, b"\x87R"])
        });
    }
}

fn records(cases: &mut Cases) {
    for (what, len) in [("too short", 60), ("too long", 68), ("empty", 0), ("a byte short", 63)] {
        cases.archive(
            format!("a storage's record that is {what}"),
            "the pickle refers to",
            move |archive| {
                *archive.member("data/0") = Member::with_descriptor("archive/data/0", vec![1; len]);
            },
        );
    }
    for name in ["data/0", "data.pkl"] {
        cases.refused(format!("no record {name}"), "", move || {
            let mut archive = honest();
            let full = format!("archive/{name}").into_bytes();
            archive.members.retain(|member| member.name != full);
            archive.bytes()
        });
    }
    let orders: [(&str, Vec<u8>); 6] = [
        ("big", b"big".to_vec()),
        ("empty", Vec::new()),
        ("in capitals", b"LITTLE".to_vec()),
        ("little and more", b"little\n".to_vec()),
        ("not text", vec![0xff; 6]),
        ("of 1 MiB", vec![b'l'; 1 << 20]),
    ];
    for (what, order) in orders {
        cases.archive(format!("a byte order that is {what}"), "byteorder", move |archive| {
            let order = Member::with_descriptor("archive/byteorder", order.clone());
            *archive.member("byteorder") = order;
        });
    }
    for part in [".scai/manifest.json", ".scai/digests"] {
        cases.archive(
            format!("a {part} in a file by torch"),
            "part of the manifest",
            move |archive| {
                archive.members.push(Member::new(format!("archive/{part}"), b"{}".as_slice()));
            },
        );
    }
    cases.refused("an archive without data.pkl", "not a checkpoint", || {
        let mut archive = honest();
        archive.member("data.pkl").name = b"archive/constants.pkl".to_vec();
        archive.bytes()
    });
    cases.refused("no checksums at all", "no checksums", || {
        let mut archive = honest();
        for member in &mut archive.members {
            let plain = Member::new(member.name.clone(), member.data.clone());
            *member = plain;
            member.local.crc = Some(0);
            member.central.crc = Some(0);
        }
        archive.bytes()
    });
    cases.archive("no checksum on one record", "checksum mismatch", |archive| {
        let member = archive.member("data/0");
        *member = Member::new(member.name.clone(), member.data.clone());
        member.local.crc = Some(0);
        member.central.crc = Some(0);
    });
}
