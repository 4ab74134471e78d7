//! Files that are no checkpoint of PyTorch: named for what they are, and read if they hold some.

use std::sync::Arc;

use scai_checkpoint::codec::{CheckpointFile, Format, Protection, Unprotected};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Error, Tensor, Value, file};

use crate::forge::{Archive, Header, Member, honest};
use crate::support::{self, Bytes, golden, read_file};

fn open(bytes: Vec<u8>) -> Result<CheckpointFile, Error> {
    CheckpointFile::open(Arc::new(Bytes(bytes)), Unprotected::Accept)
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let members = members.iter().map(|(name, data)| Member::new(*name, *data)).collect();
    Archive { members, ..Archive::default() }.bytes()
}

/// The error of opening a file or, at the latest, of reading its tree.
fn refusal(bytes: Vec<u8>) -> Error {
    match open(bytes).and_then(|file| file.tree()) {
        Ok(tree) => panic!("it was read as {tree:?}"),
        Err(error) => error,
    }
}

#[test]
fn a_file_that_is_something_else_is_named_for_what_it_is() {
    let index = r#"{"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors"}}"#;
    let cases: [(&[u8], &str); 21] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "`git lfs pull`"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page"),
        (b"\n  <html lang=en>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "`gzip -dc FILE > OUT`"),
        (b"\xfd7zXZ\0\0\x04", "`xz -dc FILE > OUT`"),
        (b"\x28\xb5\x2f\xfd\x24\0", "`zstd -dc FILE > OUT`"),
        (b"BZh91AY&SY", "`bzip2 -dc FILE > OUT`"),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f8'}", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x1c\0\0\0TFL3\x14\0", "a TensorFlow Lite model"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.0.1", "an ONNX or TensorFlow model"),
        (
            b"{\"architectures\": [\"Bert\"], \"model_type\": \"bert\"}",
            "the configuration of a model",
        ),
        (b"[1, 2, 3]\n", "a JSON document"),
        (index.as_bytes(), "the index of a sharded checkpoint"),
        (b"\x80\x04\x95\x05\0\0\0\0\0\0\0]K\x01a.", "a pickle not written by `torch.save`"),
        (&archive(&[("a.npy", b"\x93NUMPY"), ("b/c.npy", b"")]), "an archive of NumPy arrays"),
        (&archive(&[("metadata.json", b"{}"), ("model.weights.h5", b"")]), "a Keras model"),
        (&archive(&[("archive_format", b"pt2"), ("models/model.json", b"")]), "torch.export"),
        (&archive(&[("notes.txt", b"x"), ("sub/more.txt", b"")]), "(notes.txt, sub/more.txt)"),
    ];
    for (bytes, words) in cases {
        let error = refusal(bytes.to_vec());
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{words}: {error:?}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[test]
fn what_may_be_a_checkpoint_that_was_cut_off_or_overwritten_is_damage() {
    let whole = support::write(&Value::Dict(Dict::new())).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    let mut first_byte = whole.clone();
    first_byte[0] ^= 1;
    let html_over = [&b"<html>"[..], &whole[6..]].concat();
    let half_an_index = br#"{"weight_map": {"a": "model-00001-of-0"#.to_vec();
    for bytes in [Vec::new(), vec![0; 4096], half, first_byte, html_over, half_an_index] {
        let error = refusal(bytes);
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    }
    // A name in the directory that was changed is no other kind of archive.
    let mut torch = honest();
    torch.member("data.pkl").central.name = Some(b"archive/data.pkk".to_vec());
    assert!(matches!(refusal(torch.bytes()), Error::Damaged { .. }));
}

#[test]
fn a_torch_script_model_is_named_though_its_code_is_deflated() {
    let mut torch = honest();
    let deflated = b"\x4b\x04\x00"; // "a"
    let (crc, size) = (Some(crc32fast::hash(b"a")), Some(1));
    let header = Header { method: Some(8), size, crc, ..Header::default() };
    for (name, local) in
        [("archive/code/a.py", header), ("archive/constants.pkl", Header::default())]
    {
        let central = local.clone();
        let data = if local.method.is_some() { &deflated[..] } else { b"\x80\x02)." };
        torch.members.push(Member { local, central, ..Member::new(name, data) });
    }
    let error = refusal(torch.bytes());
    assert!(matches!(error, Error::NotACheckpoint { .. }), "{error:?}");
    assert!(error.to_string().contains("torch.jit.load"), "{error}");
    assert!(!error.to_string().contains("zip -0"), "{error}");
    assert!(open(torch.bytes()).unwrap().verify(1).is_empty());
}

fn tree(number: f32) -> Value {
    let values = Storage::from_vec(number.to_le_bytes().to_vec());
    let tensor = Tensor::contiguous(DType::Float32, vec![1], values).unwrap();
    Value::Dict([("weight", Value::Tensor(tensor))].into_iter().collect())
}

fn weight(tree: &Value, path: &str) -> f32 {
    let bytes = tree.lookup(path).and_then(Value::as_tensor).unwrap().to_bytes().unwrap();
    f32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn the_checkpoints_in_an_archive_of_another_program_are_read() {
    // As Stable-Baselines3 packs them.
    let [policy, optimizer] = [1., 2.].map(|number| support::write(&tree(number)).unwrap());
    let members = [
        ("data", &b"{}"[..]),
        ("policy.pth", &policy),
        ("policy.optimizer.pth", &optimizer),
        ("_stable_baselines3_version", b"2.0"),
    ];
    let bytes = archive(&members);
    let file = open(bytes.clone()).unwrap();
    assert_eq!((file.format(), file.protection()), (Format::Archive, Protection::Crc32));
    assert!(file.verify(1).is_empty());
    let Value::Dict(read) = file.tree().unwrap() else { panic!("not a dict") };
    assert_eq!(weight(read.get("policy.pth").unwrap(), "weight"), 1.);
    assert_eq!(weight(read.get("policy.optimizer.pth").unwrap(), "weight"), 2.);

    let at = bytes.windows(policy.len()).position(|part| part == policy).unwrap();
    let mut damaged = bytes;
    damaged[at + policy.len() / 2] ^= 1;
    let named = |error: &Error| error.to_string().contains("policy.pth");
    match open(damaged) {
        Ok(file) => assert!(file.verify(1).iter().all(named)),
        Err(error) => assert!(named(&error), "{error}"),
    }
}

#[test]
fn the_shards_of_an_index_are_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let safetensors = |number| {
        let plan =
            scai_checkpoint::codec::safetensors::SafetensorsPlan::new(&tree(number)).unwrap();
        support::in_memory(plan.len(), |file| plan.write(1, file)).unwrap()
    };
    let (first, second) = (safetensors(1.), support::write(&tree(2.)).unwrap());
    let rename = |bytes: Vec<u8>| bytes;
    std::fs::write(at("a-1.safetensors"), rename(first)).unwrap();
    std::fs::write(at("a-2.bin"), second).unwrap();
    let index = |map: &str| {
        let json = format!("{{\"metadata\": {{}}, \"weight_map\": {map}}}");
        std::fs::write(at("a.safetensors.index.json"), json).unwrap();
        file::open(at("a.safetensors.index.json"), Unprotected::Refuse)
    };
    let file = index(r#"{"weight": "a-2.bin"}"#).unwrap();
    assert_eq!((file.format(), file.protection()), (Format::Sharded, Protection::Digests));
    assert_eq!(weight(&file.tree().unwrap(), "weight"), 2.);
    assert!(file.verify(1).is_empty());

    let error = index(r#"{"weight": "a-1.safetensors", "b": "a-2.bin"}"#).unwrap().tree();
    assert!(error.unwrap_err().to_string().contains("not in the shard"));
    let error = index(r#"{"weight": "a-3.bin"}"#).unwrap_err();
    assert!(matches!(&error, Error::NotFound { path } if path == "a-3.bin"), "{error:?}");
    for outside in ["../a-1.safetensors", "/etc/passwd", ""] {
        let error = index(&format!("{{\"weight\": \"{outside}\"}}")).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{outside}: {error:?}");
    }
}

#[test]
fn a_deflated_record_is_read_as_torch_reads_it_and_checked() {
    let mut torch = honest();
    let plain = torch.member("data/0").data.clone();
    // One stored block: what deflate makes of bytes that it cannot shrink.
    let len = plain.len() as u16;
    let block = [&[1][..], &len.to_le_bytes(), &(!len).to_le_bytes(), &plain].concat();
    let header = Header {
        method: Some(8),
        size: Some(plain.len() as u32),
        crc: Some(crc32fast::hash(&plain)),
        ..Header::default()
    };
    *torch.member("data/0") =
        Member { local: header.clone(), central: header, ..Member::new("archive/data/0", block) };
    let same = |tree: Value| {
        tree.tensors().into_iter().map(|(_, t)| t.to_bytes().unwrap()).collect::<Vec<_>>()
    };
    let expected = same(open(honest().bytes()).unwrap().tree().unwrap());
    assert_eq!(same(open(torch.bytes()).unwrap().tree().unwrap()), expected);
    torch.member("data/0").data[9] ^= 1;
    let damage = open(torch.bytes()).unwrap().verify(1);
    assert!(matches!(damage.as_slice(), [Error::Damaged { .. }]), "{damage:?}");
}

#[test]
fn every_golden_file_is_still_what_it_was() {
    for path in support::pt_files(&golden().join("files")) {
        assert!(!matches!(open(read_file(&path)), Err(Error::NotACheckpoint { .. })), "{path:?}");
    }
}
