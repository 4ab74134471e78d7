//! The stack machine: opcodes to an arena of nodes.

use num_bigint::BigInt;

use super::globals::{Global, advice};
use super::op;
use crate::error::{Error, Place, shown};
use crate::value::DictKind;

/// The record that is being read, for messages.
const RECORD: &str = "data.pkl";

/// A node's index in the arena.
pub(super) type Id = u32;

/// An object under construction. Children are indices, so that an object that was referred to
/// before it was filled comes out filled.
#[derive(Debug, Clone)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    BigInt(Box<BigInt>),
    Float(f64),
    Str(Box<str>),
    Wtf8(Box<[u8]>),
    Bytes(Box<[u8]>),
    ByteArray(Box<[u8]>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Set(Vec<Id>),
    /// Most dicts stay empty: each tensor has one for its hooks.
    EmptyDict(DictKind),
    Dict(Box<DictNode>),
    Global(Global),
    /// A storage, by the tuple of its persistent id.
    Persistent(Id),
    Called(Box<Called>),
}

/// A mapping under construction.
#[derive(Debug, Clone)]
pub(super) struct DictNode {
    pub(super) kind: DictKind,
    pub(super) entries: Vec<(Id, Id)>,
    pub(super) attributes: Option<Id>,
}

/// A known constructor, the tuple it is applied to, and the state set afterwards.
#[derive(Debug, Clone)]
pub(super) struct Called {
    pub(super) global: Global,
    pub(super) args: Id,
    pub(super) state: Option<Id>,
}

impl DictNode {
    fn empty(kind: DictKind) -> Self {
        Self { kind, entries: Vec::new(), attributes: None }
    }
}

/// The nodes that every arena begins with: what one byte stands for needs no node each time.
const CONSTANTS: [(u8, fn() -> Node); 4] = [
    (op::NONE, || Node::None),
    (op::NEWTRUE, || Node::Bool(true)),
    (op::NEWFALSE, || Node::Bool(false)),
    (op::EMPTY_TUPLE, || Node::Tuple(Box::default())),
];

/// No integer has more bytes. Printing one takes time in proportion to the square of its length,
/// and `torch.load(weights_only=True)` reads at most 255 bytes.
const MAX_INTEGER: usize = 4 << 10;

// One byte of a pickle can make a node, so nodes are kept small.
const _: () = assert!(size_of::<Node>() <= 32);

/// No node has this index.
const NOTHING: Id = Id::MAX;

/// What running a pickle left.
#[derive(Debug)]
pub(in super::super) struct Program {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    /// Bytes up to and with the `STOP`.
    pub(in super::super) consumed: usize,
}

/// Why a pickle could not be run.
#[derive(Debug)]
pub(in super::super) enum Stop {
    /// The bytes end before the pickle does.
    Short,
    /// It is no pickle, or none that is read here.
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Bad(error)
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// Runs the pickle at the start of `bytes`.
pub(in super::super) fn run(bytes: &[u8]) -> Step<Program> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        nodes: CONSTANTS.iter().map(|(_, node)| node()).collect(),
        memo: Vec::new(),
        small: [NOTHING; 256],
        remembered: 0,
        marks: Vec::new(),
    };
    machine.run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    nodes: Vec<Node>,
    /// What is remembered under each number; [`NOTHING`] where that is nothing.
    memo: Vec<Id>,
    /// The nodes of the integers of one byte that were met: sizes and strides of tensors.
    small: [Id; 256],
    /// How many numbers are taken.
    remembered: u32,
    /// Heights of the stack at which there is a mark.
    marks: Vec<usize>,
}

fn bad<T>(at: usize, what: impl std::fmt::Display) -> Step<T> {
    Err(Stop::Bad(Error::damaged(
        Place::record(RECORD),
        format!("the pickle is not valid at byte {at}: {what}"),
    )))
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Program> {
        loop {
            let start = self.at;
            let code = self.byte()?;
            match code {
                op::STOP => {
                    let root = self.pop()?;
                    if !self.stack.is_empty() || !self.marks.is_empty() {
                        return bad(start, "values are left on the stack");
                    }
                    let nodes = std::mem::take(&mut self.nodes);
                    return Ok(Program { nodes, root, consumed: self.at });
                }
                op::PROTO => {
                    let version = self.byte()?;
                    if !(2..=5).contains(&version) {
                        return bad(start, format_args!("protocol {version}"));
                    }
                }
                op::FRAME => {
                    self.take(8)?;
                }
                op::MARK => self.marks.push(self.stack.len()),
                op::POP => {
                    self.pop()?;
                }
                op::POP_MARK => {
                    self.pop_mark()?;
                }
                op::DUP => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                op::MEMOIZE => {
                    self.put(self.remembered)?;
                }
                op::BINPUT => {
                    let key = self.byte()?;
                    self.put(key.into())?;
                }
                op::LONG_BINPUT => {
                    let key = self.u32()?;
                    self.put(key)?;
                }
                op::BINGET => {
                    let key = self.byte()?;
                    self.get(key.into())?;
                }
                op::LONG_BINGET => {
                    let key = self.u32()?;
                    self.get(key)?;
                }
                op::APPEND
                | op::APPENDS
                | op::SETITEM
                | op::SETITEMS
                | op::ADDITEMS
                | op::BUILD => self.fill(code)?,
                op::GLOBAL | op::STACK_GLOBAL | op::REDUCE | op::BINPERSID => {
                    self.call(code)?;
                }
                op::BININT1 => {
                    let int = self.byte()?;
                    match self.small[usize::from(int)] {
                        NOTHING => {
                            self.small[usize::from(int)] = self.nodes.len() as Id;
                            self.push(Node::Int(int.into()))?;
                        }
                        known => self.stack.push(known),
                    }
                }
                _ => match CONSTANTS.iter().position(|&(constant, _)| constant == code) {
                    Some(id) => self.stack.push(id as Id),
                    None => {
                        let node = self.literal(code)?;
                        self.push(node)?;
                    }
                },
            }
        }
    }

    /// The opcodes that make a new value, from what follows them or from the stack.
    fn literal(&mut self, code: u8) -> Step<Node> {
        Ok(match code {
            op::BININT => Node::Int(i32::from_le_bytes(self.array()?).into()),
            op::BININT2 => Node::Int(u16::from_le_bytes(self.array()?).into()),
            op::LONG1 | op::LONG4 => {
                let len = if code == op::LONG1 { self.byte()?.into() } else { self.len32()? };
                if len > MAX_INTEGER && len <= self.bytes.len() - self.at {
                    return Err(Stop::Bad(Error::unsupported(
                        Place::record(RECORD),
                        format!("an integer of {len} bytes"),
                        format!("at most {MAX_INTEGER} are read; save it as bytes or a tensor"),
                    )));
                }
                let int = BigInt::from_signed_bytes_le(self.take(len)?);
                i64::try_from(&int).map_or_else(|_| Node::BigInt(Box::new(int)), Node::Int)
            }
            op::BINFLOAT => Node::Float(f64::from_be_bytes(self.array()?)),
            op::BINUNICODE | op::SHORT_BINUNICODE | op::BINUNICODE8 => {
                let len = match code {
                    op::SHORT_BINUNICODE => self.byte()?.into(),
                    op::BINUNICODE => self.len32()?,
                    _ => self.len64()?,
                };
                self.text(len)?
            }
            op::SHORT_BINSTRING | op::BINSTRING => {
                // Strings of Python 2, which torch reads as text.
                let len =
                    if code == op::SHORT_BINSTRING { self.byte()?.into() } else { self.len32()? };
                self.text(len)?
            }
            op::SHORT_BINBYTES | op::BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => {
                let len = match code {
                    op::SHORT_BINBYTES => self.byte()?.into(),
                    op::BINBYTES => self.len32()?,
                    _ => self.len64()?,
                };
                let bytes = self.take(len)?.into();
                if code == op::BYTEARRAY8 { Node::ByteArray(bytes) } else { Node::Bytes(bytes) }
            }
            op::EMPTY_LIST => Node::List(Vec::new()),
            op::EMPTY_SET => Node::Set(Vec::new()),
            op::EMPTY_DICT => Node::EmptyDict(DictKind::Dict),
            op::TUPLE => Node::Tuple(self.pop_mark()?.into()),
            op::LIST => Node::List(self.pop_mark()?),
            op::DICT => {
                let entries = self.pop_mark()?;
                let entries = pairs(self.at, &entries)?;
                Node::Dict(Box::new(DictNode { entries, ..DictNode::empty(DictKind::Dict) }))
            }
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let len = usize::from(code - op::TUPLE1) + 1;
                let mut items = vec![0; len];
                for item in items.iter_mut().rev() {
                    *item = self.pop()?;
                }
                Node::Tuple(items.into())
            }
            op::FROZENSET => return self.refuse("builtins", "frozenset"),
            op::NEXT_BUFFER
            | op::READONLY_BUFFER
            | op::EXT1
            | op::EXT2
            | op::EXT4
            | op::PERSID
            | op::INST
            | op::OBJ
            | op::NEWOBJ
            | op::NEWOBJ_EX => {
                return Err(Stop::Bad(Error::unsupported(
                    Place::record(RECORD),
                    format!("the pickle uses the opcode {}", op::name(code)),
                    "no state that `torch.load(weights_only=True)` accepts needs it",
                )));
            }
            op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE | op::GET | op::PUT => {
                return Err(Stop::Bad(Error::unsupported(
                    Place::record(RECORD),
                    format!("the pickle uses the opcode {} of protocol 0", op::name(code)),
                    "save it again with `torch.save`, whose protocol is 2",
                )));
            }
            _ => return bad(self.at - 1, format_args!("no opcode has the code {code:#04x}")),
        })
    }

    /// The opcodes that put something into a container.
    fn fill(&mut self, code: u8) -> Step<()> {
        let at = self.at - 1;
        let items = match code {
            op::APPEND | op::BUILD => vec![self.pop()?],
            op::SETITEM => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let is_dict = items.first().is_some_and(|&id| self.node(id).is_dict());
        if let (op::SETITEM | op::SETITEMS | op::BUILD, &Node::EmptyDict(kind)) =
            (code, self.node(target))
        {
            *self.node_mut(target) = Node::Dict(Box::new(DictNode::empty(kind)));
        }
        match (code, self.node_mut(target)) {
            (op::APPEND | op::APPENDS, Node::List(list)) => list.extend(items),
            (op::SETITEM | op::SETITEMS, Node::Dict(dict)) => {
                dict.entries.extend(pairs(at, &items)?);
            }
            (op::ADDITEMS, Node::Set(set)) => set.extend(items),
            (op::BUILD, Node::Dict(dict)) if dict.kind == DictKind::Ordered && is_dict => {
                if dict.attributes.is_some() {
                    return bad(at, "the attributes of a dict are set twice");
                }
                dict.attributes = items.first().copied();
            }
            (op::BUILD, Node::Called(called)) if matches!(called.global, Global::Kept(_)) => {
                if called.state.is_some() {
                    return bad(at, "the state of an object is set twice");
                }
                called.state = items.first().copied();
            }
            (_, node) => {
                let what = format!("{} on a {}", op::name(code), node.type_name());
                return bad(at, what);
            }
        }
        Ok(())
    }

    /// The opcodes that look up names and apply them.
    fn call(&mut self, code: u8) -> Step<()> {
        let at = self.at - 1;
        let node = match code {
            op::GLOBAL => {
                let module = self.line()?;
                let name = self.line()?;
                self.find(module, name)?
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name))
                else {
                    return bad(at, "the name of a global is not a string");
                };
                self.find(module, name)?
            }
            op::BINPERSID => Node::Persistent(self.pop()?),
            _ => {
                let (args, callee) = (self.pop()?, self.pop()?);
                let &Node::Global(global) = self.node(callee) else {
                    return bad(at, format_args!("a {} is called", self.node(callee).type_name()));
                };
                let Node::Tuple(arguments) = self.node(args) else {
                    return bad(at, "the arguments are not a tuple");
                };
                match global {
                    Global::OrderedDict if arguments.is_empty() => {
                        Node::EmptyDict(DictKind::Ordered)
                    }
                    Global::Counter if arguments.is_empty() => Node::EmptyDict(DictKind::Counter),
                    global if global.is_kept_class() => {
                        return bad(at, "a class of tensors is called");
                    }
                    global => Node::Called(Box::new(Called { global, args, state: None })),
                }
            }
        };
        self.push(node)
    }

    fn find(&self, module: &str, name: &str) -> Step<Node> {
        match Global::find(module, name) {
            Some(global) => Ok(Node::Global(global)),
            None => self.refuse(module, name),
        }
    }

    fn refuse<T>(&self, module: &str, name: &str) -> Step<T> {
        let module = if module == "__builtin__" { "builtins" } else { module };
        Err(Stop::Bad(Error::unsupported(
            Place::record(RECORD),
            format!("the pickle refers to `{}`", shown(&format!("{module}.{name}"))),
            advice(module, name),
        )))
    }

    fn text(&mut self, len: usize) -> Step<Node> {
        let at = self.at;
        let bytes = self.take(len)?;
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => Node::Str(text.into()),
            Err(_) if is_wtf8(bytes) => Node::Wtf8(bytes.into()),
            Err(_) => return bad(at, "a string is not UTF-8"),
        })
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::Short)?;
        let start = self.at;
        self.at += end + 1;
        match std::str::from_utf8(&rest[..end]) {
            Ok(line) => Ok(line),
            Err(_) => bad(start, "a name is not UTF-8"),
        }
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.nodes.len() as Id;
        if self.nodes.len() >= NOTHING as usize {
            return bad(self.at, "it has more than four thousand million values");
        }
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(<[Id]>::last) {
            Some(&id) => Ok(id),
            None => bad(self.at, "the stack is empty"),
        }
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => bad(self.at, "there is no mark on the stack"),
        }
    }

    fn put(&mut self, key: u32) -> Step<()> {
        let id = self.top()?;
        let place = key as usize;
        // Whoever writes a pickle counts up, and takes a byte at least for each number.
        if place >= self.bytes.len() {
            return bad(self.at, format_args!("{key} is no number to remember a value under"));
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, NOTHING);
        }
        let before = std::mem::replace(&mut self.memo[place], id);
        self.remembered += u32::from(before == NOTHING);
        Ok(())
    }

    fn get(&mut self, key: u32) -> Step<()> {
        match self.memo.get(key as usize) {
            Some(&id) if id != NOTHING => {
                self.stack.push(id);
                Ok(())
            }
            _ => bad(self.at, format_args!("nothing is remembered under {key}")),
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(len).ok_or(Stop::Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Stop::Short)
    }

    fn byte(&mut self) -> Step<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Step<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn len32(&mut self) -> Step<usize> {
        let len = self.u32()?;
        usize::try_from(len).map_err(|_| Stop::Short)
    }

    fn len64(&mut self) -> Step<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| Stop::Short)
    }
}

impl Node {
    fn is_dict(&self) -> bool {
        matches!(self, Node::EmptyDict(_) | Node::Dict(_))
    }

    /// Whether a value made of this is one object where several places refer to it. For small
    /// values that cannot change, it makes no difference.
    pub(super) fn can_be_shared(&self) -> bool {
        match self {
            Node::None
            | Node::Bool(_)
            | Node::Int(_)
            | Node::Float(_)
            | Node::Global(_)
            | Node::Persistent(_) => false,
            Node::Tuple(items) => !items.is_empty(),
            _ => true,
        }
    }

    /// Bytes that a value made of this takes besides itself.
    pub(super) fn content_len(&self) -> usize {
        match self {
            Node::Str(text) => text.len(),
            Node::Wtf8(bytes) | Node::Bytes(bytes) | Node::ByteArray(bytes) => bytes.len(),
            Node::BigInt(int) => (int.bits() / 8) as usize,
            _ => 0,
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "bool",
            Node::Int(_) | Node::BigInt(_) => "int",
            Node::Float(_) => "float",
            Node::Str(_) | Node::Wtf8(_) => "str",
            Node::Bytes(_) => "bytes",
            Node::ByteArray(_) => "bytearray",
            Node::List(_) => "list",
            Node::Tuple(_) => "tuple",
            Node::Set(_) => "set",
            Node::EmptyDict(_) | Node::Dict(_) => "dict",
            Node::Global(_) => "class or function",
            Node::Persistent(_) => "storage",
            Node::Called(_) => "constructed object",
        }
    }
}

fn pairs(at: usize, items: &[Id]) -> Step<Vec<(Id, Id)>> {
    let pairs = items.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return bad(at, "a key has no value");
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}

/// Whether `bytes` are UTF-8 but for lone surrogates encoded as three bytes each.
pub(super) fn is_wtf8(mut bytes: &[u8]) -> bool {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(_) => return true,
            Err(error) => match &bytes[error.valid_up_to()..] {
                [0xed, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..] => bytes = rest,
                _ => return false,
            },
        }
    }
}
