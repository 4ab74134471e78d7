//! What several constructors are applied to: each makes the whole of it, as `torch.load` does.

use scai_checkpoint::codec::torch::{Foreign, Unprotected};
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{Dict, Value};

use crate::forge::{Member, honest, tensor};
use crate::support::{open, write};

const ORDERED: &[u8] = b"ccollections\nOrderedDict\n";
const COUNTER: &[u8] = b"ccollections\nCounter\n";
const SET: &[u8] = b"c__builtin__\nset\n";
/// Remembered as 0: `[("a", 1), ("b", [2])]`.
const PAIRS: &[u8] = b"](X\x01\0\0\0aK\x01\x86X\x01\0\0\0b](K\x02e\x86eq\0";
/// Remembered as 0: `{"a": 1, "b": [2]}`.
const DICT: &[u8] = b"}(X\x01\0\0\0aK\x01X\x01\0\0\0b](K\x02euq\0";
/// The same once more.
const AGAIN: &[u8] = b"h\0";

/// What a pickle of protocol 2 holds.
fn read(parts: &[&[u8]], foreign: Foreign) -> Value {
    let pickle = [b"\x80\x02", parts.concat().as_slice(), b"."].concat();
    let mut archive = honest();
    *archive.member("data.pkl") = Member::with_descriptor("archive/data.pkl", pickle);
    open(archive.bytes(), Unprotected::Refuse).unwrap().tree_with(foreign).unwrap()
}

/// The two items of a tuple, which come out the same when they are written and read again.
fn two(parts: &[&[u8]]) -> (Value, Value) {
    let tree = read(&[&[&b"("[..]], parts, &[b"t"]].concat(), Foreign::Refuse);
    let again = open(write(&tree).unwrap(), Unprotected::Refuse).unwrap().tree().unwrap();
    assert_eq!(again, tree);
    let Value::Tuple(items) = tree else { panic!("a tuple") };
    let [first, second] = <[Value; 2]>::try_from(items).unwrap();
    (first, second)
}

fn dict(kind: DictKind) -> Value {
    let entries = [("a", Value::Int(1)), ("b", Value::List(vec![Value::Int(2)]))];
    Value::Dict(Dict { kind, ..entries.into_iter().collect() })
}

#[test]
fn two_dicts_of_one_list_of_pairs_are_both_whole_and_hold_the_same_objects() {
    let (first, second) = two(&[ORDERED, PAIRS, b"\x85R", ORDERED, AGAIN, b"\x85R"]);
    assert_eq!((&first, &second), (&dict(DictKind::Ordered), &dict(DictKind::Ordered)));
    let list = |dict: &Value| dict.as_dict().unwrap().get("b").unwrap().shared_id();
    assert!(list(&first).is_some() && list(&first) == list(&second));
}

#[test]
fn two_dicts_of_one_dict_are_both_whole() {
    for (class, kind) in [(ORDERED, DictKind::Ordered), (COUNTER, DictKind::Counter)] {
        let (first, second) = two(&[class, DICT, b"\x85R", class, AGAIN, b"\x85R"]);
        assert_eq!((first, second), (dict(kind), dict(kind)));
        let (first, second) = two(&[class, DICT, b"\x85R", AGAIN]);
        assert_eq!((first, second), (dict(kind), dict(DictKind::Dict)));
    }
}

#[test]
fn two_sets_of_one_list_are_both_whole_and_so_is_the_list() {
    let list: &[u8] = b"](K\x01X\x01\0\0\0aeq\0";
    let items = || vec![Value::Int(1), Value::from("a")];
    let (first, second) = two(&[SET, list, b"\x85R", SET, AGAIN, b"\x85R"]);
    assert_eq!((first, second), (Value::Set(items()), Value::Set(items())));
    let (first, second) = two(&[SET, list, b"\x85R", AGAIN]);
    assert_eq!((first, second), (Value::Set(items()), Value::List(items())));
}

#[test]
fn two_dicts_with_the_same_attributes_both_have_them() {
    let (first, second) = two(&[ORDERED, b")R", DICT, b"b", ORDERED, b")R", AGAIN, b"b"]);
    for made in [first, second] {
        let attributes = made.as_dict().unwrap().attributes.clone().unwrap();
        assert_eq!(Value::Dict(*attributes), dict(DictKind::Dict));
    }
}

#[test]
fn two_calls_with_the_same_arguments_both_have_them() {
    let sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n";
    let (first, second) = two(&[sparse, PAIRS, b"\x85q\x01R", sparse, b"h\x01R"]);
    let Value::Call(call) = &first else { panic!("a call") };
    assert!(matches!(call.args[0].resolved(), Value::List(pairs) if pairs.len() == 2));
    assert_eq!(first, second);
}

#[test]
fn a_dict_is_made_of_a_tuple_of_pairs_and_a_counter_is_not() {
    let pairs: &[u8] = b"X\x01\0\0\0aK\x01\x86\x85q\0";
    let (first, second) = two(&[ORDERED, pairs, b"\x85R", ORDERED, AGAIN, b"\x85R"]);
    let entries = [("a", Value::Int(1))].into_iter().collect();
    assert_eq!(first, Value::Dict(Dict { kind: DictKind::Ordered, ..entries }));
    assert_eq!(first, second);
    // It would count the pairs.
    let pickle = [b"\x80\x02", COUNTER, PAIRS, b"\x85R."].concat();
    let mut archive = honest();
    *archive.member("data.pkl") = Member::with_descriptor("archive/data.pkl", pickle);
    let error = open(archive.bytes(), Unprotected::Refuse).unwrap().tree().unwrap_err();
    assert!(error.to_string().contains("something other than entries"), "{error}");
}

#[test]
fn a_module_with_two_names_has_its_tensors_under_both() {
    let weight = tensor("FloatStorage", "0", 16, 0, &[4], &[1]);
    // A module: its class, and its attributes, of which a module has at least these two.
    let module = |parameters: &[u8], modules: &[u8]| {
        let [names, children] = [&b"X\x0b\0\0\0_parameters"[..], b"X\x08\0\0\0_modules"];
        let state = [b"}(", names, parameters, children, modules, b"ub"].concat();
        [b"cnet\nNet\n)\x81", state.as_slice()].concat()
    };
    let inner = module(&[b"}X\x06\0\0\0weight", weight.as_slice(), b"s"].concat(), b"}");
    let children = [b"}(X\x01\0\0\0a", inner.as_slice(), b"q\x63X\x01\0\0\0bh\x63u"].concat();
    let tree = read(&[&module(b"}", &children)], Foreign::StandIn);
    let names: Vec<String> = tree.tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.weight", "b.weight"]);
    let storages = tree.tensors().into_iter().map(|(_, tensor)| tensor.storage().id());
    assert_eq!(storages.collect::<std::collections::HashSet<_>>().len(), 1);
}
