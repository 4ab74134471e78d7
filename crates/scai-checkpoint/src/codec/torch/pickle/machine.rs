//! The stack machine: from opcodes to an arena of nodes.

use num_bigint::BigInt;
use rustc_hash::FxHashMap;

use super::globals::{Global, advice};
use super::op;
use super::text;
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
    /// What only code could make: nothing is run, and what it is made of is kept.
    Object(Box<ObjectNode>),
}

/// An object that only code could make.
#[derive(Debug, Clone)]
pub(super) struct ObjectNode {
    /// The class or function.
    pub(super) callee: Id,
    /// The tuple it is applied to.
    pub(super) args: Id,
    /// The state set afterwards.
    pub(super) state: Option<Id>,
    pub(super) filled: Option<Box<Filled>>,
}

/// What else an object was given.
#[derive(Debug, Clone, Default)]
pub(super) struct Filled {
    /// Elements of a list or set.
    pub(super) items: Vec<Id>,
    /// Entries of a mapping.
    pub(super) entries: Vec<(Id, Id)>,
    /// Arguments by name.
    pub(super) named: Option<Id>,
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

impl ObjectNode {
    fn new(callee: Id, args: Id) -> Self {
        Self { callee, args, state: None, filled: None }
    }

    fn filled(&mut self) -> &mut Filled {
        self.filled.get_or_insert_default()
    }
}

/// The empty tuple among [`CONSTANTS`].
const NO_ARGUMENTS: Id = 3;

/// The nodes that every arena begins with: a value that one byte stands for does not need a node
/// each time.
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
    /// The classes and functions that only code could use, by their numbers.
    pub(super) foreign: Vec<Box<str>>,
    /// Bytes up to and including the `STOP`.
    pub(in super::super) consumed: usize,
}

/// Why a pickle could not be run.
#[derive(Debug)]
pub(in super::super) enum Stop {
    /// The bytes end before the pickle does.
    Short,
    /// It is not a pickle, or not one that this crate reads.
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
        foreign: Vec::new(),
        numbers: FxHashMap::default(),
        copied: 0,
    };
    machine.run().map_err(|stop| match stop {
        // If a pickle that needs code has something unsupported, it most likely belongs to that code.
        Stop::Bad(Error::Unsupported { .. }) if !machine.foreign.is_empty() => {
            Stop::Bad(needs_code(&machine.foreign))
        }
        stop => stop,
    })
}

/// The error for a pickle that refers to classes and functions of these names.
pub(super) fn needs_code(names: &[Box<str>]) -> Error {
    /// Names that a message lists.
    const FEW: usize = 10;
    let shown: Vec<String> = names.iter().take(FEW).map(|name| shown(name)).collect();
    let more = names.len().saturating_sub(FEW);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let advice = names.first().map_or("", |name| advice(name));
    Error::needs_code(
        Place::record(RECORD),
        format!("{}{more}", shown.join(", ")),
        format!(
            "{advice}; `scai show`, `scai convert --lossy` and `scai.load(…, \
             foreign=\"stand-in\")` can still read the tensors"
        ),
    )
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Id>,
    nodes: Vec<Node>,
    /// What is remembered under each number; [`NOTHING`] if there is nothing.
    memo: Vec<Id>,
    /// The nodes of the one-byte integers seen so far: sizes and strides of tensors.
    small: [Id; 256],
    /// How many numbers are taken.
    remembered: u32,
    /// Heights of the stack at which there is a mark.
    marks: Vec<usize>,
    foreign: Vec<Box<str>>,
    /// The number of each name in `foreign`.
    numbers: FxHashMap<Box<str>, u32>,
    /// Entries that were copied from a list into a mapping.
    copied: usize,
}

fn bad<T>(at: usize, what: impl std::fmt::Display) -> Step<T> {
    Err(Stop::Bad(Error::damaged(
        Place::record(RECORD),
        format!("the pickle is not valid at byte {at}: {what}"),
    )))
}

/// An error for a pickle that does something unsupported.
fn odd<T>(at: usize, what: impl std::fmt::Display) -> Step<T> {
    Err(Stop::Bad(Error::unsupported(
        Place::record(RECORD),
        format!("{what} (byte {at} of the pickle)"),
        "nothing that `torch.load(weights_only=True)` accepts does this",
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
                    let foreign = std::mem::take(&mut self.foreign);
                    return Ok(Program { nodes, root, foreign, consumed: self.at });
                }
                op::PROTO => {
                    let version = self.byte()?;
                    if version > 5 {
                        return bad(start, format_args!("unknown protocol {version}"));
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
                op::PUT => {
                    let key = self.number()?;
                    self.put(key)?;
                }
                op::BINGET => {
                    let key = self.byte()?;
                    self.get(key.into())?;
                }
                op::GET => {
                    let key = self.number()?;
                    self.get(key)?;
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
                op::BINPERSID => self.persistent()?,
                op::GLOBAL
                | op::STACK_GLOBAL
                | op::EXT1
                | op::EXT2
                | op::EXT4
                | op::REDUCE
                | op::INST
                | op::OBJ
                | op::NEWOBJ
                | op::NEWOBJ_EX
                | op::FROZENSET => self.call(code)?,
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
                    return Err(too_long(len));
                }
                integer(BigInt::from_signed_bytes_le(self.take(len)?))
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
                let len =
                    if code == op::SHORT_BINSTRING { self.byte()?.into() } else { self.len32()? };
                string(self.take(len)?.into())
            }
            op::STRING => {
                let line = self.raw_line()?;
                match text::unquote(line) {
                    Some(bytes) => string(bytes),
                    None => return bad(self.at, "a string is not quoted as in Python"),
                }
            }
            op::UNICODE => {
                let line = self.raw_line()?;
                match text::raw_unicode_escape(line) {
                    Some(Ok(text)) => Node::Str(text.into()),
                    Some(Err(bytes)) => Node::Wtf8(bytes.into()),
                    None => return bad(self.at, "a string is not escaped as in Python"),
                }
            }
            op::INT | op::LONG => match self.line()? {
                "00" if code == op::INT => Node::Bool(false),
                "01" if code == op::INT => Node::Bool(true),
                line => {
                    let digits = line.strip_suffix('L').unwrap_or(line);
                    // A decimal digit takes some more than three bits.
                    if digits.len() > 2 * MAX_INTEGER {
                        return Err(too_long(digits.len() / 2));
                    }
                    match digits.parse::<BigInt>() {
                        Ok(int) => integer(int),
                        Err(_) => return bad(self.at, "invalid integer"),
                    }
                }
            },
            op::FLOAT => match self.line()?.parse() {
                Ok(float) => Node::Float(float),
                Err(_) => return bad(self.at, "invalid float"),
            },
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
            op::NEXT_BUFFER | op::READONLY_BUFFER | op::PERSID => {
                return Err(Stop::Bad(Error::unsupported(
                    Place::record(RECORD),
                    format!("the pickle uses the opcode {}", op::name(code)),
                    "no state that `torch.load(weights_only=True)` accepts needs it",
                )));
            }
            _ => return bad(self.at - 1, format_args!("unknown opcode {code:#04x}")),
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
                    return odd(at, "the attributes of a dict are set twice");
                }
                dict.attributes = items.first().copied();
            }
            (op::BUILD, Node::Called(called))
                if called.state.is_none()
                    && matches!(called.global, Global::Kept(_) | Global::NumPy(_)) =>
            {
                called.state = items.first().copied();
            }
            (op::BUILD, Node::Object(object)) if object.state.is_none() => {
                object.state = items.first().copied();
            }
            (op::APPEND | op::APPENDS | op::ADDITEMS, Node::Object(object)) => {
                object.filled().items.extend(items);
            }
            (op::SETITEM | op::SETITEMS, Node::Object(object)) => {
                object.filled().entries.extend(pairs(at, &items)?);
            }
            (_, node) => {
                let what = format!("{} on a {}", op::name(code), node.type_name());
                return odd(at, what);
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
                Node::Global(self.find(module, name))
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name))
                else {
                    return bad(at, "the name of a global is not a string");
                };
                let (module, name) = (module.clone(), name.clone());
                Node::Global(self.find(&module, &name))
            }
            op::EXT1 | op::EXT2 | op::EXT4 => {
                let number = match code {
                    op::EXT1 => self.byte()?.into(),
                    op::EXT2 => u16::from_le_bytes(self.array()?).into(),
                    _ => self.u32()?,
                };
                Node::Global(self.find("copyreg", &format!("extension {number}")))
            }
            op::FROZENSET => {
                let items = self.pop_mark()?;
                let class = self.find("builtins", "frozenset");
                let callee = self.add(Node::Global(class))?;
                let mut object = ObjectNode::new(callee, NO_ARGUMENTS);
                object.filled().items = items;
                Node::Object(Box::new(object))
            }
            op::INST => {
                let module = self.line()?;
                let name = self.line()?;
                let class = self.find(module, name);
                let callee = self.add(Node::Global(class))?;
                let args = self.pop_mark()?;
                let args = self.add(Node::Tuple(args.into()))?;
                self.apply(at, code, callee, args, None)?
            }
            op::OBJ => {
                let mut args = self.pop_mark()?.into_iter();
                let Some(callee) = args.next() else {
                    return bad(at, "there is no class to make an object of");
                };
                let args = self.add(Node::Tuple(args.collect()))?;
                self.apply(at, code, callee, args, None)?
            }
            op::NEWOBJ_EX => {
                let (named, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.apply(at, code, callee, args, Some(named))?
            }
            _ => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.apply(at, code, callee, args, None)?
            }
        };
        self.push(node)
    }

    /// What `callee` makes of `args` (and of arguments by name).
    fn apply(
        &mut self,
        at: usize,
        code: u8,
        callee: Id,
        args: Id,
        named: Option<Id>,
    ) -> Step<Node> {
        let Node::Tuple(arguments) = self.node(args) else {
            return bad(at, "the arguments are not a tuple");
        };
        let global = match self.node(callee) {
            Node::Global(Global::Foreign(_)) | Node::Object(_) => None,
            &Node::Global(global) => Some(global),
            other => return odd(at, format_args!("a {} is called", other.type_name())),
        };
        let is_plain = named.is_none_or(|named| match self.node(named) {
            Node::EmptyDict(_) => true,
            Node::Dict(dict) => dict.entries.is_empty(),
            _ => false,
        });
        let Some(global) = global else {
            let mut object = ObjectNode::new(callee, args);
            if !is_plain {
                object.filled().named = named;
            }
            return Ok(Node::Object(Box::new(object)));
        };
        if !is_plain {
            return odd(at, "a known class is called with keyword arguments");
        }
        // `__new__` of these ignores its arguments.
        let makes_empty = arguments.is_empty() || matches!(code, op::NEWOBJ | op::NEWOBJ_EX);
        let only = <[Id; 1]>::try_from(&**arguments);
        Ok(match (global, only) {
            (Global::OrderedDict, _) if makes_empty => Node::EmptyDict(DictKind::Ordered),
            (Global::Counter, _) if makes_empty => Node::EmptyDict(DictKind::Counter),
            (Global::Set, _) if makes_empty => Node::Set(Vec::new()),
            (Global::ByteArray, _) if makes_empty => Node::ByteArray(Box::default()),
            // Python 2 writes an `OrderedDict` as its class, applied to a list of lists.
            (Global::OrderedDict, Ok([list])) => match self.entries_of(list) {
                Some(entries) => {
                    Node::Dict(Box::new(DictNode { entries, ..DictNode::empty(DictKind::Ordered) }))
                }
                None => Node::Called(Box::new(Called { global, args, state: None })),
            },
            _ => Node::Called(Box::new(Called { global, args, state: None })),
        })
    }

    /// The entries of a dict that is made of a list or tuple of pairs. `None` for anything else, and if
    /// the same list was copied so often that the file must be malicious.
    fn entries_of(&mut self, list: Id) -> Option<Vec<(Id, Id)>> {
        let items: &[Id] = match self.node(list) {
            Node::List(items) => items,
            Node::Tuple(items) => items,
            _ => return None,
        };
        let copied = self.copied.checked_add(items.len()).filter(|&n| n <= self.bytes.len())?;
        let pair = |&item: &Id| match self.node(item) {
            Node::List(pair) => <[Id; 2]>::try_from(pair.as_slice()).ok(),
            Node::Tuple(pair) => <[Id; 2]>::try_from(&**pair).ok(),
            _ => None,
        };
        let entries = items.iter().map(|item| pair(item).map(|[key, value]| (key, value)));
        let entries = entries.collect::<Option<Vec<_>>>()?;
        self.copied = copied;
        Some(entries)
    }

    /// A storage; or a class, which PyTorch once wrote together with its source.
    fn persistent(&mut self) -> Step<()> {
        let id = self.pop()?;
        if let Node::Tuple(parts) = self.node(id)
            && let [kind, class, ..] = **parts
            && matches!(self.node(kind), Node::Str(kind) if &**kind == "module")
        {
            self.stack.push(class);
            return Ok(());
        }
        self.push(Node::Persistent(id))
    }

    /// What a name stands for.
    fn find(&mut self, module: &str, name: &str) -> Global {
        Global::find(module, name).unwrap_or_else(|| {
            let module = match module {
                "__builtin__" => "builtins",
                "copy_reg" => "copyreg",
                module => module,
            };
            let full = format!("{module}.{name}").into_boxed_str();
            let next = self.foreign.len() as u32;
            let number = *self.numbers.entry(full.clone()).or_insert(next);
            if number == next {
                self.foreign.push(full);
            }
            Global::Foreign(number)
        })
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

    fn raw_line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::Short)?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn line(&mut self) -> Step<&'a str> {
        let start = self.at;
        match std::str::from_utf8(self.raw_line()?) {
            Ok(line) => Ok(line),
            Err(_) => bad(start, "a name is not UTF-8"),
        }
    }

    /// The decimal number of a value to remember.
    fn number(&mut self) -> Step<u32> {
        let start = self.at;
        match self.line()?.parse() {
            Ok(number) => Ok(number),
            Err(_) => bad(start, "invalid memo index"),
        }
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Step<Id> {
        let id = self.nodes.len() as Id;
        if self.nodes.len() >= NOTHING as usize {
            return odd(self.at, "it has more than four billion values");
        }
        self.nodes.push(node);
        Ok(id)
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
        // A writer counts up, and takes a byte at least for each number.
        if place >= self.bytes.len() {
            return bad(self.at, format_args!("{key} is not a valid memo index"));
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
            _ => bad(self.at, format_args!("the memo has nothing at index {key}")),
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

    /// Whether a value made of this stays one object if it has several references. For small
    /// immutable values, it makes no difference.
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
            Node::Object(_) => "object",
        }
    }
}

fn integer(int: BigInt) -> Node {
    i64::try_from(&int).map_or_else(|_| Node::BigInt(Box::new(int)), Node::Int)
}

/// A string of Python 2: text, as torch reads it, or bytes.
fn string(bytes: Box<[u8]>) -> Node {
    match String::from_utf8(bytes.into()) {
        Ok(text) => Node::Str(text.into()),
        Err(error) => Node::Bytes(error.into_bytes().into()),
    }
}

fn too_long(len: usize) -> Stop {
    Stop::Bad(Error::unsupported(
        Place::record(RECORD),
        format!("an integer of {len} bytes"),
        format!("at most {MAX_INTEGER} bytes are supported; save it as bytes or a tensor"),
    ))
}

fn pairs(at: usize, items: &[Id]) -> Step<Vec<(Id, Id)>> {
    let pairs = items.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return bad(at, "a key has no value");
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}

/// Whether `bytes` are UTF-8 except for lone surrogates encoded as three bytes each.
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
