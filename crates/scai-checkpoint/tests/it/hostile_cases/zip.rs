//! Lies of the archive: directory against headers, overlaps, names, numbers, what lies between.

use super::{Cases, Expect};
use crate::forge::{
    Archive, End64, Header, Member, descriptor, extra, extra64, honest, honest_pickle,
};

type Change = fn(&mut Header);

/// One field of a header, changed.
const HEADERS: [(&str, Change); 27] = [
    ("name", |h| h.name = Some(b"archive/data/7".to_vec())),
    ("name in capitals", |h| h.name = Some(b"archive/DATA/0".to_vec())),
    ("longer name", |h| h.name = Some(b"archive/data/0\0.png".to_vec())),
    ("no name", |h| h.name = Some(Vec::new())),
    ("length of the name short", |h| h.name_len = Some(13)),
    ("length of the name long", |h| h.name_len = Some(15)),
    ("length of the name huge", |h| h.name_len = Some(u16::MAX)),
    ("length of the extra fields", |h| h.extra_len = Some(1)),
    ("length of the extra fields huge", |h| h.extra_len = Some(u16::MAX)),
    ("encrypted", |h| h.flags = Some(0x0809)),
    ("strongly encrypted", |h| h.flags = Some(0x0849)),
    ("masked headers", |h| h.flags = Some(0x2808)),
    ("all flags", |h| h.flags = Some(u16::MAX)),
    ("no flags", |h| h.flags = Some(0)),
    ("deflated", |h| h.method = Some(8)),
    ("deflate64", |h| h.method = Some(9)),
    ("method 93", |h| h.method = Some(93)),
    ("AES", |h| h.method = Some(99)),
    ("CRC-32", |h| h.crc = Some(0xdead_beef)),
    ("size one less", |h| h.size = Some(63)),
    ("size one more", |h| h.size = Some(65)),
    ("size 2 GiB", |h| h.size = Some(1 << 31)),
    ("size in a missing ZIP64 field", |h| h.size = Some(u32::MAX)),
    ("stored size one less", |h| h.stored = Some(63)),
    ("stored size 2 GiB", |h| h.stored = Some(1 << 31)),
    ("stored size in a missing ZIP64 field", |h| h.stored = Some(u32::MAX)),
    ("signature", |h| h.signature = Some(0x0807_4b50)),
];

/// Names that lead elsewhere, or that two readers read differently.
const NAMES: [(&str, &[u8], &str); 19] = [
    ("absolute", b"/archive/data/0", "plain relative path"),
    ("parent", b"archive/../../etc/passwd", "plain relative path"),
    ("parent at the start", b"../archive/data/0", "plain relative path"),
    ("current", b"archive/./data/0", "plain relative path"),
    ("doubled slash", b"archive//data/0", "plain relative path"),
    ("trailing slash", b"archive/data/0/", "has content"),
    ("backslash", b"archive\\data\\0", "plain relative path"),
    ("drive", b"C:/archive/data/0", "plain relative path"),
    ("network share", b"//host/share/data/0", "plain relative path"),
    ("NUL", b"archive/data/0\0", "plain relative path"),
    ("empty", b"", "plain relative path"),
    ("not UTF-8", b"archive/data/\xff\xfe", "plain relative path"),
    ("overlong UTF-8", b"archive/data/\xc0\xaf", "plain relative path"),
    ("another folder", b"elsewhere/data/0", "in another folder"),
    ("no folder", b"data", "in another folder"),
    ("of another record", b"archive/data/1", "occurs twice"),
    ("of the pickle", b"archive/data.pkl", "occurs twice"),
    ("of part of the manifest", b"archive/.scai/digests", "part of the manifest is missing"),
    ("of a missing storage", b"archive/data/00", "the record is missing"),
];

pub(super) fn add(cases: &mut Cases) {
    headers(cases);
    names(cases);
    overlaps(cases);
    hidden(cases);
    end_records(cases);
    zip64(cases);
    descriptors(cases);
    many(cases);
}

fn headers(cases: &mut Cases) {
    for (what, change) in HEADERS {
        cases.archive(format!("directory alone: {what}"), "", move |archive| {
            change(&mut archive.member("data/0").central);
        });
        // A descriptor follows, so zeros in the header mean nothing; other numbers are lies.
        cases.archive(format!("local header alone: {what}"), "", move |archive| {
            change(&mut archive.member("data/0").local);
        });
    }
    let both: [(&str, &str, Change); 5] = [
        ("encrypted", "encrypted", |h| h.flags = Some(0x0809)),
        ("deflated", "does not decompress", |h| h.method = Some(8)),
        ("AES", "compressed (method 99)", |h| h.method = Some(99)),
        ("CRC-32", "after `archive/data/0`", |h| h.crc = Some(1)),
        ("size", "", |h| (h.size, h.stored) = (Some(60), Some(60))),
    ];
    for (what, words, change) in both {
        cases.archive(format!("both headers: {what}"), words, move |archive| {
            let member = archive.member("data/0");
            change(&mut member.central);
            change(&mut member.local);
        });
    }
    cases.archive("a deflate bomb: 4 GiB from 64 bytes", "disagree", |archive| {
        let member = archive.member("data/0");
        for header in [&mut member.central, &mut member.local] {
            header.method = Some(8);
            header.size = Some(u32::MAX - 1);
        }
    });
    cases.archive("offset of another record", "twice", |archive| {
        archive.member("data/1").central = Header {
            offset: Some(0),
            name: Some(b"archive/data.pkl".to_vec()),
            ..Header::default()
        };
    });
    for offset in [1, 1 << 31, u32::MAX - 1, u32::MAX] {
        cases.archive(format!("offset {offset} in the directory"), "", move |archive| {
            archive.member("data/0").central.offset = Some(offset);
        });
    }
    cases.archive("a record on another disk", "disagree", |archive| {
        archive.member("data/0").central.disk = 1;
    });
    for id in [0x7075, 0x6375, 0x9901, 0x0017] {
        let words = "extra field";
        cases.archive(
            format!("an extra field {id:#06x} of another meaning"),
            words,
            move |archive| {
                archive.member("data/0").central.extra = extra(id, b"\x01\0\0\0\0archive/data/1");
            },
        );
    }
    cases.archive("a name that is not ASCII and not said to be UTF-8", "UTF-8", |archive| {
        for member in &mut archive.members {
            let name = String::from_utf8(member.name.clone()).unwrap();
            member.name = name.replace("archive", "archivé").into_bytes();
            member.flags &= !(1 << 11);
        }
    });
    cases.add("times, versions and attributes", Expect::Same, || {
        let mut archive = honest();
        archive.member("data/0").central.comment = b"a comment".to_vec();
        archive.bytes()
    });
}

fn names(cases: &mut Cases) {
    for (what, name, words) in NAMES {
        cases.archive(format!("name: {what}"), words, move |archive| {
            archive.member("data/0").name = name.to_vec();
        });
        cases.archive(format!("name of a further record: {what}"), "", move |archive| {
            let further = match name {
                b"archive/data/00" => b"archive/data/../0",
                name => name,
            };
            archive.members.push(Member::new(further, b"more".as_slice()));
        });
    }
    cases.archive("a name of 65535 bytes", "is missing", |archive| {
        archive.member("data/0").name = [b"archive/".as_slice(), &[b'a'; 65527]].concat();
    });
    cases.archive("a name that moves the cursor", "is missing", |archive| {
        archive.member("data/0").name = b"archive/\x1b[2J\x1b[Hdata".to_vec();
    });
}

fn overlaps(cases: &mut Cases) {
    cases.archive("two entries for one local header", "", |archive| {
        let mut twice = archive.member("data/0").clone();
        twice.unlisted = true;
        archive.member("data/1").central.offset = Some(0);
        archive.members.push(twice);
    });
    cases.archive("a record listed twice", "twice", |archive| {
        let again = archive.member("data/0").clone();
        archive.members.push(again);
    });
    cases.archive("two records of one name and other bytes", "twice", |archive| {
        archive.members.push(Member::new("archive/data/0", [9; 64]));
    });
    cases.archive("two pickles", "twice", |archive| {
        archive.members.insert(0, Member::new("archive/data.pkl", honest_pickle()));
    });
    cases.archive("a record whose data are the next record", "overlaps what follows", |archive| {
        let next = Archive::new([archive.member("data/1").clone()]).bytes().len() as u32;
        let member = archive.member("data/0");
        for header in [&mut member.central, &mut member.local] {
            header.size = Some(64 + next);
            header.stored = Some(64 + next);
        }
    });
    // Every record quotes the header of the one before: the bomb of overlapping files.
    cases.refused("1000 entries over one record", "", || {
        let mut archive = Archive::new([Member::new("archive/data.pkl", [0; 1 << 16])]);
        for i in 0..1000 {
            let mut member = Member::new(format!("archive/data/{i}"), []);
            member.local.size = Some(0);
            member.central.size = Some(1 << 16);
            member.central.stored = Some(1 << 16);
            member.central.offset = Some(0);
            archive.members.push(member);
        }
        archive.bytes()
    });
    cases.refused("1000 records that quote each other", "", || {
        let mut archive = Archive::default();
        for i in 0..1000_u32 {
            let mut member = Member::new(format!("archive/data/{i:04}"), []);
            let len = (1000 - i) * 44 - 44;
            for header in [&mut member.local, &mut member.central] {
                header.size = Some(len);
                header.stored = Some(len);
            }
            archive.members.push(member);
        }
        archive.bytes()
    });
    cases.archive("a record inside the directory", "outside the file", |archive| {
        let start = archive.bytes().len() as u32 - 400;
        archive.member("data/0").central.offset = Some(start);
    });
    cases.archive("a record inside another's data", "", |archive| {
        let inner = Archive::new([Member::new("archive/data/0", [9; 64])]).bytes();
        archive.member("version").data = inner[..30 + 14 + 64].to_vec();
        let offset = Archive::new(archive.members[..4].to_vec()).bytes().len() as u32;
        archive.member("data/0").central.offset = Some(offset);
    });
}

fn hidden(cases: &mut Cases) {
    let prefixes: [(&str, &[u8]); 9] = [
        ("an ELF program", b"\x7fELF\x02\x01\x01"),
        ("a Windows program", b"MZ\x90\0"),
        ("a 7z archive", b"7z\xbc\xaf\x27\x1c\0\x04"),
        ("a script", b"#!/bin/sh\necho hi\n"),
        ("a picture", b"\xff\xd8\xff\xe0\0\x10JFIF"),
        ("a PDF", b"%PDF-1.7\n"),
        ("zeros", &[0; 512]),
        ("one byte", b"\n"),
        ("a pickle", b"\x80\x02N."),
    ];
    for (what, prefix) in prefixes {
        let junk = "belong to no record";
        cases.archive(format!("{what} in front, offsets put right"), junk, move |archive| {
            archive.members[0].before = prefix.to_vec();
        });
        cases.refused(format!("{what} in front, offsets left"), "", move || {
            [prefix, &honest().bytes()].concat()
        });
    }
    cases.refused("another archive in front", "", || [honest().bytes(), honest().bytes()].concat());
    cases.refused("one byte behind", "does not end where", || [honest().bytes(), vec![0]].concat());
    cases.refused("an empty archive behind", "", || {
        [honest().bytes(), Archive::default().bytes()].concat()
    });
    cases.archive("bytes between two records", "belong", |archive| {
        archive.member("data/1").before = b"hidden".to_vec();
    });
    cases.archive("bytes between records and directory", "belong", |archive| {
        archive.before_directory = b"hidden".to_vec();
    });
    cases.archive("bytes between directory and end record", "", |archive| {
        archive.after_directory = b"hidden".to_vec();
    });
    cases.archive("a record that is not in the directory", "belong", |archive| {
        let mut hidden = Member::new("archive/data.pkl", honest_pickle());
        hidden.unlisted = true;
        archive.members.insert(2, hidden);
    });
    cases.archive("a further record at the end that is not listed", "belong", |archive| {
        let mut hidden = Member::new("archive/data/0", [0; 64]);
        hidden.unlisted = true;
        archive.members.push(hidden);
    });
    cases.refused("no records at all", "", || Archive::default().bytes());
    cases.refused("an empty file", "", Vec::new);
    cases.refused("64 KiB of zeros", "no end record", || vec![0; 64 << 10]);
    cases.refused("16 MiB of end records", "", || b"PK\x05\x06".repeat(4 << 20));
    cases.refused("16 MiB of local headers", "", || b"PK\x03\x04".repeat(4 << 20));
    cases.refused("16 MiB of directory entries", "", || b"PK\x01\x02".repeat(4 << 20));
}

fn end_records(cases: &mut Cases) {
    for number in [0, 1, 4, 6, 0x7fff, 0xfffe, 0xffff] {
        cases.archive(format!("{number} entries in the end record"), "", move |archive| {
            archive.end.count = Some(number);
        });
        cases.archive(format!("{number} entries in all in the end record"), "", move |archive| {
            archive.end.total = Some(number);
        });
    }
    // With 0xffff the ZIP64 end record counts, which says the same: allowed, and the same file.
    cases.0.retain(|case| !case.name.starts_with("65535 entries"));
    for number in [0, 1, 1 << 31, u32::MAX - 1] {
        cases.archive(format!("a directory of {number} bytes"), "", move |archive| {
            archive.end.size = Some(number);
        });
        cases.archive(format!("a directory at {number}"), "", move |archive| {
            archive.end.start = Some(number);
        });
    }
    for number in [1, 0xffff] {
        cases.archive(format!("disk {number}"), "several parts", move |archive| {
            archive.end.disk = number;
        });
        cases.archive(format!("directory on disk {number}"), "several parts", move |archive| {
            archive.end.directory_disk = number;
        });
        cases.archive(format!("a comment {number} longer than the file"), "", move |archive| {
            archive.end.comment_len = Some(number);
        });
    }
    let comments: [(&str, Vec<u8>, &str); 6] = [
        ("an end record", Archive::default().bytes(), ""),
        ("the signature of an end record", b"PK\x05\x06".to_vec(), ""),
        ("a whole archive", honest().bytes(), ""),
        ("the start of a root", b"scai-root:".to_vec(), "part of the manifest is missing"),
        ("a root", [&b"scai-root:"[..], &[b'0'; 32]].concat(), "part of the manifest is missing"),
        ("signatures of records", b"PK\x01\x02PK\x03\x04PK\x06\x06PK\x06\x07".to_vec(), "same"),
    ];
    for (what, comment, words) in comments {
        let expect = match words {
            "same" => Expect::Same,
            words => Expect::Refused(words),
        };
        cases.add(format!("a comment with {what}"), expect, move || {
            let mut archive = honest();
            archive.end.comment = comment.clone();
            archive.bytes()
        });
    }
    cases.archive("a comment of an entry with an end record", "", |archive| {
        let end = Archive::default().bytes();
        archive.members.last_mut().unwrap().central.comment = [end.as_slice(), &[0; 64]].concat();
        archive.end64 = None;
        archive.end.comment_len = Some(1);
    });
}

fn zip64(cases: &mut Cases) {
    type Change64 = fn(&mut End64, u64);
    let fields: [(&str, Change64); 6] = [
        ("length", |e, n| e.len = Some(n)),
        ("count", |e, n| e.count = Some(n)),
        ("total", |e, n| e.total = Some(n)),
        ("size of the directory", |e, n| e.size = Some(n)),
        ("start of the directory", |e, n| e.start = Some(n)),
        ("place in the locator", |e, n| e.locator = Some(n)),
    ];
    for (what, change) in fields {
        for number in [0, 1 << 32, 1 << 63, u64::MAX] {
            cases.archive(format!("ZIP64: {what} {number}"), "", move |archive| {
                change(archive.end64.as_mut().unwrap(), number);
            });
            // The end record refers to the ZIP64 one for everything, so nothing contradicts it.
            cases.archive(format!("ZIP64 alone: {what} {number}"), "", move |archive| {
                let end = &mut archive.end;
                (end.count, end.total) = (Some(u16::MAX), Some(u16::MAX));
                (end.size, end.start) = (Some(u32::MAX), Some(u32::MAX));
                change(archive.end64.as_mut().unwrap(), number);
            });
        }
    }
    cases.archive("ZIP64: needed and missing", "is missing", |archive| {
        archive.end64 = None;
        archive.end.start = Some(u32::MAX);
    });
    cases.archive("ZIP64: not in front of its locator", "", |archive| {
        archive.end64.as_mut().unwrap().between = vec![0; 8];
    });
    cases.archive("ZIP64: on another disk", "", |archive| {
        archive.end64.as_mut().unwrap().disks = [1, 1];
    });
    cases.archive("ZIP64: locator of another disk", "", |archive| {
        archive.end64.as_mut().unwrap().locator_disk = 1;
    });
    cases.archive("ZIP64: locator of many disks", "", |archive| {
        archive.end64.as_mut().unwrap().locator_disks = Some(u32::MAX);
    });
    for number in [0, 63, 65, 1 << 32, 1 << 63, u64::MAX] {
        cases.archive(format!("ZIP64 field: {number} bytes"), "", move |archive| {
            let header = &mut archive.member("data/0").central;
            (header.size, header.stored) = (Some(u32::MAX), Some(u32::MAX));
            header.extra = extra64(&[number, number]);
        });
        cases.archive(format!("ZIP64 field: record at {number}"), "", move |archive| {
            let header = &mut archive.member("data/0").central;
            header.offset = Some(u32::MAX);
            header.extra = extra64(&[number]);
        });
        cases.archive(
            format!("ZIP64 field of the local header: {number} bytes"),
            "",
            move |archive| {
                let needless = if number == 0 { 1 } else { number };
                archive.member("data/0").local.extra = extra64(&[needless, needless]);
            },
        );
    }
    cases.archive("ZIP64 field: numbers nothing asks for", "needless", |archive| {
        archive.member("data/0").central.extra = extra64(&[64, 64]);
    });
    cases.archive("ZIP64 field: too few numbers", "lacks", |archive| {
        let header = &mut archive.member("data/0").central;
        (header.size, header.stored) = (Some(u32::MAX), Some(u32::MAX));
        header.extra = extra64(&[64]);
    });
    cases.archive("ZIP64 field: twice", "not valid", |archive| {
        let header = &mut archive.member("data/0").central;
        (header.size, header.stored) = (Some(u32::MAX), Some(u32::MAX));
        header.extra = [extra64(&[64, 64]), extra64(&[1 << 40, 1 << 40])].concat();
    });
    cases.archive("ZIP64 field: of odd length", "not valid", |archive| {
        archive.member("data/0").central.extra = extra(1, &[0; 7]);
    });
    cases.archive("an extra field longer than its header", "truncated", |archive| {
        archive.member("data/0").central.extra = vec![1, 0, 0xff, 0xff, 0, 0];
    });
    cases.add("ZIP64 where nothing needs it", Expect::Same, || {
        let mut archive = honest();
        let end = &mut archive.end;
        (end.count, end.total) = (Some(u16::MAX), Some(u16::MAX));
        (end.size, end.start) = (Some(u32::MAX), Some(u32::MAX));
        let header = &mut archive.member("data/0").central;
        (header.size, header.stored) = (Some(u32::MAX), Some(u32::MAX));
        header.extra = extra64(&[64, 64]);
        archive.bytes()
    });
}

fn descriptors(cases: &mut Cases) {
    let crc = crc32fast::hash(&(0..64).collect::<Vec<u8>>());
    let lies: [(&str, Vec<u8>); 7] = [
        ("of another CRC-32", descriptor(!crc, 64, 64)),
        ("of another size", descriptor(crc, 64, 65)),
        ("of another stored size", descriptor(crc, 0, 64)),
        ("that is missing", Vec::new()),
        ("without its signature", descriptor(crc, 64, 64)[4..].to_vec()),
        ("twice", descriptor(crc, 64, 64).repeat(2)),
        ("with bytes behind it", [descriptor(crc, 64, 64), vec![0; 8]].concat()),
    ];
    for (what, after) in lies {
        cases.archive(format!("a descriptor {what}"), "", move |archive| {
            archive.member("data/0").after = after.clone();
        });
    }
    cases.archive("a descriptor nothing announces", "belong", |archive| {
        let plain = Member::new("archive/data/0", (0..64).collect::<Vec<u8>>());
        let after = descriptor(crc32fast::hash(&plain.data), 64, 64);
        *archive.member("data/0") = Member { after, ..plain };
    });
}

fn many(cases: &mut Cases) {
    cases.refused("100,000 records, no pickle", "without `data.pkl`", || {
        let members = (0..100_000).map(|i| Member::new(format!("archive/{i}"), b"x".as_slice()));
        let mut archive = Archive::new(members);
        archive.end64 = Some(End64::default());
        (archive.end.count, archive.end.total) = (Some(u16::MAX), Some(u16::MAX));
        archive.bytes()
    });
    cases.add("100,000 records that nothing refers to", Expect::Same, || {
        let mut archive = honest();
        let further =
            (0..100_000).map(|i| Member::new(format!("archive/data/x{i}"), b"x".as_slice()));
        archive.members.extend(further);
        (archive.end.count, archive.end.total) = (Some(u16::MAX), Some(u16::MAX));
        archive.bytes()
    });
}
