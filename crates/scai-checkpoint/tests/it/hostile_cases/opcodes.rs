//! Every code an opcode can have, in places where it might matter.

use super::{Cases, Expect, with_pickle};
use crate::forge::{honest_pickle, text};

/// What follows the code in a pickle, so that it is an opcode that could be carried out.
fn arguments(code: u8) -> Vec<u8> {
    match code {
        b'F' | b'I' | b'L' => b"1\n".to_vec(),
        b'S' => b"'a'\n".to_vec(),
        b'V' | b'P' => b"a\n".to_vec(),
        b'g' | b'p' => b"0\n".to_vec(),
        b'c' | b'i' => b"os\nsystem\n".to_vec(),
        b'G' => b"\x3f\xe0\0\0\0\0\0\0".to_vec(),
        b'J' => b"\x01\0\0\0".to_vec(),
        b'M' | 0x83 => b"\x01\0".to_vec(),
        b'K' | b'h' | b'q' | 0x82 => b"\x01".to_vec(),
        0x80 => b"\x02".to_vec(),
        b'j' | b'r' | 0x84 => b"\x01\0\0\0".to_vec(),
        b'T' | b'X' | b'B' | 0x8b => b"\x01\0\0\0a".to_vec(),
        b'U' | b'C' | 0x8a | 0x8c => b"\x01a".to_vec(),
        0x8d | 0x8e | 0x96 => b"\x01\0\0\0\0\0\0\0a".to_vec(),
        0x95 => vec![0; 8],
        _ => Vec::new(),
    }
}

pub(super) fn add(cases: &mut Cases) {
    for code in 0..=u8::MAX {
        // Before the first value, between a key and its value, and before the end. What it leaves
        // is popped where that makes the rest come out as before, so that a reader that took the
        // opcode for something else would show.
        for (place, what) in [(2, "first"), (14, "after a key"), (usize::MAX, "last")] {
            // Only a tuple around the whole is another file that is as good.
            let tuple = code == 0x85 && what == "last";
            let expect = if tuple { Expect::Loads } else { Expect::RefusedOrSame };
            cases.add(format!("opcode {code:#04x} {what}"), expect, move || {
                let honest = honest_pickle();
                let at = place.min(honest.len() - 1);
                let opcode = [&[code][..], &arguments(code)].concat();
                with_pickle([&honest[..at], &opcode, &honest[at..]].concat())
            });
        }
        cases.add(format!("opcode {code:#04x} and POP"), Expect::RefusedOrSame, move || {
            let honest = honest_pickle();
            let at = honest.len() - 1;
            let opcode = [&[code][..], &arguments(code), b"0"].concat();
            with_pickle([&honest[..at], &opcode, &honest[at..]].concat())
        });
        cases.add(format!("opcode {code:#04x} over operands"), Expect::RefusedOrSame, move || {
            // A mark, a function and its arguments: what REDUCE, INST, OBJ, NEWOBJ and BUILD want.
            let operands = [&b"("[..], b"cos\nsystem\n", &text("true"), b"\x85"].concat();
            let opcode = [&[code][..], &arguments(code), b"1"].concat();
            let honest = honest_pickle();
            let at = honest.len() - 1;
            with_pickle([&honest[..at], &operands, &opcode, &honest[at..]].concat())
        });
        cases.add(
            format!("opcode {code:#04x} over safe operands"),
            Expect::RefusedOrSame,
            move || {
                let operands = [&b"("[..], b"ccollections\nOrderedDict\n", b"}\x85"].concat();
                let opcode = [&[code][..], &arguments(code), b"1"].concat();
                let honest = honest_pickle();
                let at = honest.len() - 1;
                with_pickle([&honest[..at], &operands, &opcode, &honest[at..]].concat())
            },
        );
    }
}
