//! Pickles that would run code, fill the memory, or never end.

use super::{Cases, Expect, program, with_pickle};
use crate::forge::{honest_pickle, int, storage, text};

/// Functions and classes an attacker would name, all refused by name.
const GLOBALS: [(&str, &str); 44] = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "compile"),
    ("builtins", "object"),
    ("builtins", "type"),
    ("builtins", "frozenset"),
    ("builtins", "list"),
    ("__builtin__", "eval"),
    ("__builtin__", "apply"),
    ("importlib", "import_module"),
    ("pkgutil", "resolve_name"),
    ("runpy", "run_path"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("types", "CodeType"),
    ("marshal", "loads"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("shutil", "rmtree"),
    ("socket", "socket"),
    ("webbrowser", "open"),
    ("ctypes", "CDLL"),
    ("copyreg", "_reconstructor"),
    ("collections", "defaultdict"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor_v4"),
    ("torch.serialization", "load"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.optim.adam", "Adam"),
    ("torch.jit", "load"),
    ("torch.distributed.rpc.internal", "_InternalRPCPickler"),
    ("torch", "FloatStorage.__class__"),
    ("torch.FloatStorage", "__init__"),
    ("numpy.core.multiarray", "fromfile"),
];

pub(super) fn add(cases: &mut Cases) {
    cases.add("pickle: the honest file", Expect::Same, || with_pickle(honest_pickle()));
    globals(cases);
    calls(cases);
    structure(cases);
    lengths(cases);
    deep(cases);
    bombs(cases);
    copies(cases);
    long(cases);
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn stack_global(module: &str, name: &str) -> Vec<u8> {
    [text(module), text(name), b"\x93".to_vec()].concat()
}

fn globals(cases: &mut Cases) {
    for (module, name) in GLOBALS {
        // All of them said of Python 2 and 3 alike, and with the name of the place.
        let words: &'static str = "require running code";
        cases.pickle(format!("{module}.{name}"), words, move || {
            program(&[&global(module, name), &text("true"), b"\x85R"])
        });
    }
    let names: [(&str, &str, &str); 9] = [
        ("a name with dots", "torch", "nn.Linear"),
        ("a dunder", "collections", "OrderedDict.__reduce__"),
        ("an empty name", "", ""),
        ("an empty module", "", "OrderedDict"),
        ("a space", "collections ", "OrderedDict"),
        ("capitals", "Collections", "OrderedDict"),
        ("a NUL", "collections\0", "OrderedDict"),
        ("a letter that looks the same", "collection\u{455}", "OrderedDict"),
        ("a subclass of a known class", "torch.nn.parameter", "UninitializedParameter"),
    ];
    for (what, module, name) in names {
        cases.pickle(format!("a global with {what}"), "require running code", move || {
            program(&[&stack_global(module, name), b")R"])
        });
    }
    cases.pickle("a global with a name of 1 MiB", "require running code", || {
        program(&[&global("torch", &"x".repeat(1 << 20)), b")R"])
    });
    cases.pickle("a global with a name that moves the cursor", "require running code", || {
        program(&[&global("torch", "\x1b[2J\x1b[31m"), b")R"])
    });
    cases.pickle("a global that is not UTF-8", "not UTF-8", || program(&[b"ctorch\n\xff\n)R"]));
    cases.pickle("a global without an end", "truncated", || b"\x80\x02ctorch.nn".to_vec());
    cases.pickle("a global of numbers", "not a string", || program(&[b"K\x01K\x02\x93"]));
}

/// Known names, used as they are not meant to be.
fn calls(cases: &mut Cases) {
    let encode = |text: &[u8], encoding: &str| {
        program(&[
            &global("_codecs", "encode"),
            text,
            &super::super::forge::text(encoding),
            b"\x86R",
        ])
    };
    for encoding in ["rot13", "hex", "zlib", "bz2", "utf-8", "idna", "unicode_escape", ""] {
        cases.pickle(format!("_codecs.encode to {encoding:?}"), "Encode is called", move || {
            encode(&text("cbfvk"), encoding)
        });
    }
    cases.pickle("_codecs.encode beyond latin-1", "above 255", move || {
        encode(&text("\u{2028}"), "latin1")
    });
    cases.pickle("_codecs.encode of a number", "not made of a string", move || {
        encode(&int(1), "latin1")
    });
    cases.pickle("_codecs.encode of three things", "is called", || {
        program(&[&global("_codecs", "encode"), &text("x"), &text("latin1"), &text("y"), b"\x87R"])
    });
    cases.pickle("a function of NumPy as a value", "as a value", || {
        program(&[&global("numpy.core.multiarray", "_reconstruct")])
    });
    cases.add("_codecs.encode as a value", Expect::Loads, || {
        with_pickle(program(&[&global("_codecs", "encode")]))
    });
    let called: [(&str, &str, &str); 12] = [
        ("torch", "Tensor", "a tensor class is called"),
        ("torch.nn.parameter", "Parameter", "something other than a tensor"),
        ("torch", "FloatStorage", "is called"),
        ("torch.storage", "UntypedStorage", "is called"),
        ("torch", "float32", "is called"),
        ("torch", "Size", "expected a tuple"),
        ("torch", "device", "expected a string"),
        ("builtins", "bytes", "is called"),
        ("builtins", "complex", "is called"),
        ("builtins", "set", "something other than a list"),
        ("torch._utils", "_rebuild_tensor_v2", "is called"),
        ("torch._utils", "_rebuild_parameter", "is called"),
    ];
    for (module, name, words) in called {
        cases.pickle(format!("{module}.{name} of a number"), words, move || {
            program(&[&global(module, name), b"K\x05\x85R"])
        });
    }
    cases.pickle("a string is called", "is called", || program(&[&text("os.system"), b")R"]));
    cases.pickle("a tensor is called", "is called", || {
        let tensor = crate::forge::tensor("FloatStorage", "0", 16, 0, &[4], &[1]);
        program(&[&tensor, b")R"])
    });
    cases.pickle("arguments that are no tuple", "not a tuple", || {
        program(&[&global("collections", "OrderedDict"), b"]R"])
    });
    for (opcode, what) in [(0x81_u8, "NEWOBJ"), (b'R', "REDUCE")] {
        cases.pickle(format!("{what} on torch.Size without a tuple"), "", move || {
            program(&[&global("torch", "Size"), b")", &[opcode]])
        });
    }
    // In Python `__new__` of an OrderedDict ignores what it is given.
    cases.add("NEWOBJ on OrderedDict with entries", Expect::Loads, || {
        with_pickle(program(&[&global("collections", "OrderedDict"), b"](K\x01K\x02\x86e\x85\x81"]))
    });
    cases.pickle("NEWOBJ_EX on torch.Size with arguments by name", "keyword arguments", || {
        program(&[&global("torch", "Size"), b")}K\x01K\x02s\x92"])
    });
    let states: [(&str, &[u8]); 10] = [
        ("None", b"N"),
        ("a number", b"K\x01"),
        ("a string", b"X\x01\0\0\0a"),
        ("a list", b"]"),
        ("a tuple", b")"),
        ("a dict", b"}"),
        ("a set", b"\x8f"),
        ("a class", b"ctorch\nSize\n"),
        (
            "a storage",
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\00X\x03\0\0\0cpuK\x10tQ",
        ),
        ("a Counter", b"ccollections\nCounter\n)R"),
    ];
    for (what, target) in states {
        cases.pickle(format!("BUILD on {what}"), "BUILD on a", move || {
            program(&[target, b"}X\x01\0\0\0aK\x01sb"])
        });
        // Attributes are a dict, of any kind.
        let dict = matches!(what, "a dict" | "a Counter");
        let expect = if dict { Expect::Loads } else { Expect::Refused("BUILD on a dict") };
        cases.add(format!("BUILD of an OrderedDict with {what}"), expect, move || {
            with_pickle(program(&[&global("collections", "OrderedDict"), b")R", target, b"b"]))
        });
    }
    cases.pickle("BUILD on a tensor", "BUILD on a", || {
        let tensor = crate::forge::tensor("FloatStorage", "0", 16, 0, &[4], &[1]);
        program(&[&tensor, b"}X\x04\0\0\0dataNsb"])
    });
    cases.pickle("BUILD of an OrderedDict twice", "twice", || {
        program(&[&global("collections", "OrderedDict"), b")R}K\x01K\x02sb}K\x03K\x04sb"])
    });
}

fn structure(cases: &mut Cases) {
    let wrong: [(&str, &[u8], &str); 32] = [
        ("nothing", b"", "truncated"),
        ("only a STOP", b".", "the stack is empty"),
        ("no STOP", b"\x80\x02N", "truncated"),
        ("bytes after the STOP", b"\x80\x02N.N", "bytes follow"),
        ("a second pickle after the first", b"\x80\x02N.\x80\x02N.", "bytes follow"),
        ("two values", b"\x80\x02NN.", "left on the stack"),
        ("an open mark", b"\x80\x02(N.", "left on the stack"),
        ("a mark under the value", b"\x80\x02(N\x85.", "left on the stack"),
        ("POP of nothing", b"\x80\x020N.", "the stack is empty"),
        ("POP of a mark", b"\x80\x02(0N.", "the stack is empty"),
        ("APPENDS without a mark", b"\x80\x02]e.", "no mark"),
        ("APPENDS to nothing", b"\x80\x02(e.", "the stack is empty"),
        ("SETITEMS of a key without a value", b"\x80\x02}(Nu.", "a key has no value"),
        ("SETITEM on a list", b"\x80\x02]K\x00K\x01s.", "SETITEM on a list"),
        ("SETITEM on a tensor's class", b"\x80\x02ctorch\nTensor\nK\x00K\x01s.", "SETITEM on a"),
        ("APPEND to a tuple", b"\x80\x02)Na.", "APPEND on a tuple"),
        ("ADDITEMS to a list", b"\x80\x02](N\x90.", "ADDITEMS on a list"),
        ("BINGET of nothing", b"\x80\x02h\x05.", "nothing at index"),
        ("LONG_BINPUT far out", b"\x80\x02Nr\xfe\xff\xff\xff.", "not a valid memo index"),
        ("LONG_BINGET of nothing", b"\x80\x02j\xff\xff\xff\xff.", "nothing at index"),
        ("a dict with a list as key", b"\x80\x02}]Ns.", "mutable container"),
        ("a dict with a dict as key", b"\x80\x02}}Ns.", "mutable container"),
        ("a dict with a list in a tuple as key", b"\x80\x02}]\x85Ns.", "mutable container"),
        ("protocol 255", b"\x80\xffN.", "protocol 255"),
        ("OBJ of nothing", b"\x80\x02(o.", "no class"),
        ("INT of text", b"Ix\n.", "invalid integer"),
        ("FLOAT of text", b"Fx\n.", "invalid float"),
        ("STRING without quotes", b"Sx\n.", "not quoted"),
        ("UNICODE with half an escape", b"V\\u12\n.", "not escaped"),
        ("GET of text", b"gx\n.", "invalid memo index"),
        ("PUT of a large number", b"Np99999999999\n.", "invalid memo index"),
        ("a string that is not UTF-8", b"\x80\x02X\x02\0\0\0\xff\xfe.", "not UTF-8"),
    ];
    for (what, pickle, words) in wrong {
        cases.pickle(format!("pickle: {what}"), words, move || pickle.to_vec());
    }
    let honest = honest_pickle().len();
    for at in (1..honest).step_by(honest / 10) {
        cases.pickle(format!("pickle: cut at {at}"), "", move || honest_pickle()[..at].to_vec());
    }
    for (what, container) in [("list", b"]q\0h\0a"), ("dict", b"}q\0h\0a")] {
        cases.pickle(format!("a {what} that holds itself"), "", move || {
            let fill: &[u8] = if what == "list" { b"a" } else { b"K\x01h\0s" };
            match what {
                "list" => program(&[container]),
                _ => program(&[b"}q\0", fill]),
            }
        });
    }
    cases.pickle("a tuple that holds itself", "contains itself", || program(&[b"]q\0h\0\x85a"]));
    cases.pickle("a set that holds itself", "", || program(&[b"\x8fq\0(h\0\x90"]));
    cases.pickle("attributes that hold their dict", "contains itself", || {
        program(&[&global("collections", "OrderedDict"), b")Rq\0}K\x01h\0sb"])
    });
    cases.add("a call whose argument holds its result later", Expect::Loads, || {
        with_pickle(program(&[b"]q\0ccollections\nOrderedDict\nh\0\x85Rq\x01a0h\x01"]))
    });
    cases.pickle("a set of lists", "", || program(&[b"\x8f(]]\x90"]));
    cases.add("a set with an element twice", Expect::Loads, || {
        with_pickle(program(&[b"\x8f(K\x01K\x01\x90"]))
    });
}

fn lengths(cases: &mut Cases) {
    let long: [(&str, &[u8]); 12] = [
        ("BINUNICODE", b"X\xff\xff\xff\xff"),
        ("BINUNICODE8", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("BINUNICODE8 of 2^64-1", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("BINSTRING", b"T\xff\xff\xff\xff"),
        ("BINBYTES", b"B\xff\xff\xff\x7f"),
        ("BINBYTES8", b"\x8e\0\0\0\0\0\0\0\x80"),
        ("BYTEARRAY8", b"\x96\0\0\0\0\0\x01\0\0"),
        ("LONG4", b"\x8b\xff\xff\xff\x7f"),
        ("LONG4 of a negative length", b"\x8b\xff\xff\xff\xff"),
        ("LONG1", b"\x8a\xff"),
        ("SHORT_BINUNICODE", b"\x8c\xff"),
        ("FRAME", b"\x95\xff\xff"),
    ];
    for (what, opcode) in long {
        cases.pickle(format!("{what} longer than the pickle"), "truncated", move || {
            [b"\x80\x04", opcode].concat()
        });
    }
    cases.pickle("FRAME of 2^63 bytes", "", || program(&[b"\x95\0\0\0\0\0\0\0\x80NN"]));
}

/// A million of one opcode, and whatever closes it.
fn deep(cases: &mut Cases) {
    const DEEP: usize = 1_000_000;
    let pairs: [(&str, &[u8], &[u8], &[u8]); 8] = [
        ("lists", b"]", b"N", b"a"),
        ("dicts", b"}K\x01", b"N", b"s"),
        ("tuples", b"", b"N", b"\x85"),
        ("tuples of pairs", b"N", b"N", b"\x86"),
        ("marked lists", b"(", b"N", b"l"),
        ("marked tuples", b"(", b"N", b"t"),
        ("marked dicts", b"(N", b"N", b"d"),
        ("sets", b"\x8f(", b"N", b"\x90"),
    ];
    for (what, open, middle, close) in pairs {
        // Longer steps make fewer levels, for files of a few MB at most.
        let count = if open.len() + close.len() > 2 { DEEP / 4 } else { DEEP };
        cases.pickle(format!("{count} nested {what}"), "nested deeper", move || {
            program(&[&open.repeat(count), middle, &close.repeat(count)])
        });
    }
    cases.pickle("250,000 nested OrderedDicts", "nested deeper", || {
        let call = b"\x85R".repeat(100_000);
        let dict = b"ccollections\nOrderedDict\nq\0".to_vec();
        program(&[&dict, &b"h\0".repeat(99_999), b"]", &call])
    });
    cases.pickle("100,000 nested parameters", "", || {
        let open = b"ctorch._utils\n_rebuild_parameter\nq\0".to_vec();
        program(&[&open, &b"h\0".repeat(99_999), b"N", &b"\x89N\x87R".repeat(100_000)])
    });
    cases.pickle("100,000 nested calls that are kept", "nested deeper", || {
        let open = b"ctorch._utils\n_rebuild_sparse_tensor\nq\0".to_vec();
        program(&[&open, &b"h\0".repeat(99_999), b"N", &b"\x85R".repeat(100_000)])
    });
    cases.pickle("1,000,000 marks", "", || program(&[&vec![b'('; DEEP]]));
    cases.pickle("1,000,000 marks and POP_MARKs", "the stack is empty", || {
        program(&[&b"(1".repeat(DEEP)])
    });
    cases.pickle("1,000,000 DUPs", "left on the stack", || program(&[b"N", &vec![b'2'; DEEP]]));
    cases.pickle("1,000,000 values", "left on the stack", || program(&[&vec![b'N'; DEEP]]));
    cases.pickle("500,000 empty dicts", "left on the stack", || program(&[&vec![b'}'; DEEP / 2]]));
    cases
        .pickle("1,000,000 MEMOIZEs", "left on the stack", || program(&[b"NN", &vec![0x94; DEEP]]));
    for (apart, words) in [(5, "left on the stack"), (7919, "not a valid memo index")] {
        cases.pickle(format!("200,000 places to remember, {apart} apart"), words, move || {
            let puts: Vec<u8> = (0..200_000_u32)
                .flat_map(|i| [&b"r"[..], &(i * apart).to_le_bytes()].concat())
                .collect();
            program(&[b"NN", &puts])
        });
    }
}

/// Few bytes that ask for much memory, by referring to one thing many times.
fn bombs(cases: &mut Cases) {
    // Ten levels, each of which refers ten times to the one before.
    let laughs: [(&str, &[u8], &[u8]); 4] = [
        ("lists", b"](", b"e"),
        ("tuples", b"(", b"t"),
        ("sets", b"ccollections\nCounter\n0c__builtin__\nset\n](", b"e\x85R"),
        ("kept calls", b"ctorch._utils\n_rebuild_sparse_tensor\n(", b"tR"),
    ];
    for (what, open, close) in laughs {
        // Each level is built once. A set of sets is none.
        let expect = if what == "sets" { Expect::Refused("") } else { Expect::Loads };
        cases.add(format!("a billion laughs of {what}"), expect, move || {
            let mut out = b"Nq\0".to_vec();
            for level in 1..=10_u8 {
                out.extend(b"0");
                out.extend(open);
                out.extend([b'h', level - 1].repeat(10));
                out.extend(close);
                out.extend([b'q', level]);
            }
            with_pickle(program(&[&out]))
        });
    }
    cases.pickle("lists that many OrderedDicts are made of", "fill the memory", || {
        let list = [&b"]("[..], &b"K\x01K\x02\x86".repeat(20_000), b"eq\x01"].concat();
        let call = b"h\0h\x01\x85R".repeat(40_000);
        program(&[&global("collections", "OrderedDict"), b"q\x000(", &list, &call, b"t"])
    });
    cases.pickle("a billion laughs of objects", "require running code", || {
        let mut out = [&global("a", "B")[..], b"q\xff0Nq\0"].concat();
        for level in 1..=10_u8 {
            out.extend(b"0h\xff(");
            out.extend([b'h', level - 1].repeat(10));
            out.extend([b't', b'R', b'q', level]);
        }
        program(&[&out])
    });
    cases.pickle("100,000 calls of calls", "require running code", || {
        program(&[&global("a", "B"), &b")R".repeat(100_000)])
    });
    cases.pickle("100,000 objects around objects", "require running code", || {
        let open = [&global("a", "B")[..], b"q\0"].concat();
        program(&[&open, &b"h\0".repeat(99_999), b"N", &b"\x85R".repeat(100_000)])
    });
    cases.add("a billion laughs of dicts", Expect::Loads, || {
        let mut out = b"Nq\0".to_vec();
        for level in 1..=10_u8 {
            out.extend(b"0}(");
            (0..10_u8).for_each(|key| out.extend([b'K', key, b'h', level - 1]));
            out.extend([b'u', b'q', level]);
        }
        with_pickle(program(&[&out]))
    });
    cases.add("a billion laughs of tuples as keys", Expect::Loads, || {
        let mut out = b"K\x01q\0".to_vec();
        for level in 1..=10_u8 {
            out.extend(b"0(");
            out.extend([b'h', level - 1].repeat(10));
            out.extend([b't', b'q', level]);
        }
        with_pickle(program(&[b"}", &out, b"Ns"]))
    });
    cases.add("sixty levels, each of which refers twice to the one before", Expect::Loads, || {
        let levels = (0..60_u8)
            .flat_map(|level| [b'0', b'(', b'h', level, b'h', level, b'l', b'q', level + 1]);
        let levels: Vec<u8> = levels.collect();
        with_pickle(program(&[b"]q\0", &levels]))
    });
    let block = 64 << 10;
    let long = move || "x".repeat(block);
    let number = || [&b"\x8b"[..], &4096_u32.to_le_bytes(), &[0x55; 4096]].concat();
    let bytes = move || [&b"B"[..], &(block as u32).to_le_bytes(), &vec![0x55; block]].concat();
    let size = || {
        let dims: Vec<u8> = (0..50_000).flat_map(|_| *b"K\x07").collect();
        [b"ctorch\nSize\n(", dims.as_slice(), b"t\x85R"].concat()
    };
    let many: [(&str, Box<dyn Fn() -> Vec<u8>>); 11] = [
        ("a string of 64 KiB", Box::new(move || text(&long()))),
        ("a number of 4 KiB", Box::new(number)),
        ("64 KiB of bytes", Box::new(bytes)),
        ("64 KiB of encoded bytes", {
            let encoding = [text("latin1"), b"\x86R".to_vec()].concat();
            Box::new(move || {
                [global("_codecs", "encode"), text(&long()), encoding.clone()].concat()
            })
        }),
        ("a bytearray of 64 KiB of text", {
            let encoding = [text("latin1"), b"\x86R".to_vec()].concat();
            Box::new(move || {
                [global("builtins", "bytearray"), text(&long()), encoding.clone()].concat()
            })
        }),
        ("a bytearray of 64 KiB", {
            Box::new(move || [global("builtins", "bytearray"), bytes(), b"\x85R".to_vec()].concat())
        }),
        ("a torch.Size of 50,000 dimensions", Box::new(size)),
        ("a device of 64 KiB", {
            Box::new(move || [global("torch", "device"), text(&long()), b"\x85R".to_vec()].concat())
        }),
        ("a layout of 64 KiB", {
            let layout = global("torch.serialization", "_get_layout");
            Box::new(move || [layout.clone(), text(&long()), b"\x85R".to_vec()].concat())
        }),
        ("a tensor of 64 dimensions", {
            Box::new(|| crate::forge::tensor("FloatStorage", "0", 16, 0, &[1; 64], &[1; 64]))
        }),
        ("a storage on a device of 64 KiB", {
            Box::new(move || {
                let id = storage("FloatStorage", "0", 16);
                let place = id.windows(8).position(|eight| eight == b"X\x03\0\0\0cpu").unwrap();
                [&id[..place], &text(&long()), &id[place + 8..]].concat()
            })
        }),
    ];
    for (what, one) in many {
        cases.add(format!("100,000 times {what}"), Expect::Loads, move || {
            let list = [&b"](N"[..], &one(), b"q\0", &b"h\0".repeat(100_000), b"e"].concat();
            with_pickle(program(&[&list]))
        });
    }
}

/// Constructors that are applied to the same arguments over and over, each time with a new result.
fn copies(cases: &mut Cases) {
    let numbers = [&b"]("[..], &b"K\x01K\x02K\x03".repeat(10_000), b"e"].concat();
    let entries: Vec<u8> = (0..5_000_i64).flat_map(|key| [&int(key)[..], b"N"].concat()).collect();
    let entries = [&b"}("[..], &entries, b"u"].concat();
    let long = text(&"x".repeat(64 << 10));
    let dims = [&b"("[..], &b"K\x07".repeat(50_000), b"t"].concat();
    let of_one: &[u8] = b"h\0h\x01\x85R";
    let of_latin1: &[u8] = b"h\0h\x01X\x06\0\0\0latin1\x86R";
    let many: [(&str, Vec<u8>, Vec<u8>, &[u8]); 6] = [
        ("a set", global("builtins", "set"), numbers, of_one),
        ("a Counter", global("collections", "Counter"), entries.clone(), of_one),
        ("attributes", global("collections", "OrderedDict"), entries, b"h\0)Rh\x01b"),
        ("a torch.Size", global("torch", "Size"), dims, of_one),
        ("bytes", global("_codecs", "encode"), long.clone(), of_latin1),
        ("a bytearray", global("builtins", "bytearray"), long, of_latin1),
    ];
    for (what, callee, argument, apply) in many {
        cases.pickle(format!("20,000 times {what} of the same"), "fill the memory", move || {
            let remembered = [&callee[..], b"q\x000", &argument, b"q\x010"].concat();
            program(&[&remembered, b"(", &apply.repeat(20_000), b"t"])
        });
    }
}

/// What is legal and long, in ways that cost more than they seem to.
fn long(cases: &mut Cases) {
    let number = |len: u32| [&b"\x8b"[..], &len.to_le_bytes(), &vec![0x55; len as usize]].concat();
    for len in [4097, 200_000, 1 << 20] {
        cases.pickle(format!("a number of {len} bytes as a key"), "an integer of", move || {
            program(&[b"}", &number(len), b"Ns"])
        });
    }
    cases.add("300 numbers of 4096 bytes as keys", Expect::Loads, move || {
        let entries: Vec<u8> = (0..300_u16)
            .flat_map(|key| {
                let mut entry = number(4096);
                entry[5..7].copy_from_slice(&key.to_le_bytes());
                [&entry[..], b"Ns"].concat()
            })
            .collect();
        with_pickle(program(&[b"}", &entries]))
    });
    cases.pickle("keys of dicts in keys of dicts", "", || {
        // Each level would be compared with the ones inside it once more.
        let mut out = [&b"("[..], &b"K\x01".repeat(50_000), b"t"].concat();
        for _ in 0..100 {
            out = [&b"}"[..], &out, b"Ns\x85"].concat();
        }
        program(&[b"}", &out, b"Ns"])
    });
    cases.add("a dict of 100,000 keys", Expect::Loads, || {
        let mut out = b"}(".to_vec();
        for key in 0..100_000_i64 {
            out.extend(int(key));
            out.push(b'N');
        }
        with_pickle(program(&[&out, b"u"]))
    });
    cases.add("one key set 100,000 times", Expect::Loads, || {
        with_pickle(program(&[b"}", &b"K\x01Ns".repeat(100_000)]))
    });
    cases.add("a set of 100,000 numbers", Expect::Loads, || {
        let numbers: Vec<u8> = (0..100_000_i64).flat_map(int).collect();
        with_pickle(program(&[b"c__builtin__\nset\n](", &numbers, b"e\x85R"]))
    });
    cases.add("nesting just below the limit", Expect::Loads, || {
        with_pickle(program(&[&b"]".repeat(256), b"N", &b"a".repeat(256)]))
    });
}
