//! Where a directory or a file is: paths, `~`, and `file://` URLs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// A chain of more symbolic links is treated as a cycle.
const LINKS: usize = 40;

/// Where checkpoints are: a path or a URL, bound to the working directory it was named in.
///
/// A leading `~` is the home directory, and a `file://` URL is the path it stands for. `s3://`, `gs://` and
/// `az://` name object stores, with the feature `cloud`. A URL of another scheme is refused, and never taken
/// for a directory called `s3:`.
///
/// It is shown as it was given while the working directory is the same, and as an absolute path
/// after that changes.
///
/// ```
/// use scai_checkpoint::store::Location;
///
/// let location = Location::new("file:///runs/a%20b")?;
/// assert_eq!(location.as_path(), Some("/runs/a b".as_ref()));
/// assert!(Location::new("ftp://host/run").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    absolute: PathBuf,
    /// As it was given, if that is relative, and the working directory at the time.
    relative: Option<(PathBuf, PathBuf)>,
    /// The options of the object store that it is in; the path is its URL then.
    remote: Option<BTreeMap<String, String>>,
}

/// The schemes of object stores, and what they are called here.
const STORES: [(&str, &str); 9] = [
    ("s3", "s3"),
    ("s3a", "s3"),
    ("gs", "gs"),
    ("gcs", "gs"),
    ("az", "az"),
    ("azure", "az"),
    ("abfs", "abfs"),
    ("abfss", "abfss"),
    ("adl", "adl"),
];

impl Location {
    /// The location that a path or a URL names.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a URL of another scheme than `file`, or of another host;
    /// [`io::ErrorKind::NotFound`] if there is no home directory for `~`.
    pub fn new(given: impl AsRef<Path>) -> io::Result<Self> {
        Self::of(given.as_ref())
    }

    fn of(given: &Path) -> io::Result<Self> {
        if let Some(url) = url_of(given)? {
            return Ok(Self::remote(url.into(), BTreeMap::new()));
        }
        let path = local(given)?;
        let path = match path.strip_prefix("~") {
            Ok(rest) => home()?.join(rest),
            Err(_) => path,
        };
        if path.is_absolute() {
            return Ok(Self::local(path, None));
        }
        let directory = env::current_dir()?;
        Ok(Self::local(directory.join(&path), Some((path, directory))))
    }

    fn local(absolute: PathBuf, relative: Option<(PathBuf, PathBuf)>) -> Self {
        Self { absolute, relative, remote: None }
    }

    fn remote(url: PathBuf, options: BTreeMap<String, String>) -> Self {
        Self { absolute: url, relative: None, remote: Some(options) }
    }

    /// The same location with options of the object store, by the names of environment variables in small
    /// letters (`aws_region`); one in the local file system takes none.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if there are options for a local path.
    pub fn with_storage_options(self, options: BTreeMap<String, String>) -> io::Result<Self> {
        match self.remote {
            Some(_) => Ok(Self::remote(self.absolute, options)),
            None if options.is_empty() => Ok(self),
            None => {
                let message = format!("`{self}` is a local path, which takes no storage options");
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
        }
    }

    /// The absolute path; `None` if it is not in the local file system.
    pub fn as_path(&self) -> Option<&Path> {
        self.remote.is_none().then_some(&self.absolute)
    }

    /// The URL in an object store, and the options for that; `None` if it is in the local file system.
    pub fn as_url(&self) -> Option<(&str, &BTreeMap<String, String>)> {
        self.absolute.to_str().zip(self.remote.as_ref())
    }

    /// As [`Location::as_path`].
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if it is not in the local file system.
    pub(super) fn local_path(&self) -> io::Result<&Path> {
        self.as_path().ok_or_else(|| {
            let message = format!("`{self}` is in an object store, and this needs a local path");
            io::Error::new(io::ErrorKind::Unsupported, message)
        })
    }

    /// The location of `name` in this one.
    pub(super) fn join(&self, name: &str) -> Self {
        let relative = self.relative.as_ref();
        Self {
            absolute: self.absolute.join(name),
            relative: relative.map(|(path, directory)| (path.join(name), directory.clone())),
            remote: self.remote.clone(),
        }
    }

    pub(super) fn absolute(&self) -> &Path {
        &self.absolute
    }

    /// As it was given while that leads there, absolute once the working directory changes.
    pub(super) fn shown(&self) -> &Path {
        match &self.relative {
            Some((path, directory)) if env::current_dir().is_ok_and(|now| now == *directory) => {
                path
            }
            _ => &self.absolute,
        }
    }

    /// The directory of a file, and the file's name in it.
    pub(super) fn split(self) -> io::Result<(Self, String)> {
        let named = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
        let name = named(&self.absolute).ok_or_else(|| {
            let message = format!("`{}` is not a valid file name", self.shown().display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let parent = |path: &Path| match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let relative = self.relative.map(|(path, directory)| (parent(&path), directory));
        Ok((Self { absolute: parent(&self.absolute), relative, remote: self.remote }, name))
    }

    /// The location that the symbolic links at this one finally point to, even if nothing is there yet.
    pub(super) fn behind_links(self) -> io::Result<Self> {
        let mut path = self.absolute.clone();
        for _ in 0..LINKS {
            let Ok(target) = std::fs::read_link(&path) else {
                let here = path == self.absolute;
                return Ok(if here { self } else { Self::local(path, None) });
            };
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(rustix::io::Errno::LOOP.into())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().display().fmt(f)
    }
}

/// Whether what looks like a path is the URL of something in an object store.
pub fn is_url(path: impl AsRef<Path>) -> bool {
    Location::new(path).is_ok_and(|location| location.as_path().is_none())
}

/// What names a [`Location`]: a path, a URL, or a `Location` itself.
pub trait IntoLocation {
    /// The location that this names.
    ///
    /// # Errors
    /// As [`Location::new`].
    fn into_location(self) -> io::Result<Location>;

    /// What errors call it.
    fn to_path_buf(&self) -> PathBuf;
}

impl<P: AsRef<Path>> IntoLocation for P {
    fn into_location(self) -> io::Result<Location> {
        Location::new(self)
    }

    fn to_path_buf(&self) -> PathBuf {
        self.as_ref().to_owned()
    }
}

impl IntoLocation for Location {
    fn into_location(self) -> io::Result<Location> {
        Ok(self)
    }

    fn to_path_buf(&self) -> PathBuf {
        self.shown().to_owned()
    }
}

/// The URL of an object store in the form in which it is used; `None` if it is none.
fn url_of(given: &Path) -> io::Result<Option<String>> {
    let Some((scheme, text)) = scheme(given).zip(given.to_str()) else { return Ok(None) };
    let lower = scheme.to_ascii_lowercase();
    let Some((_, known)) = STORES.iter().find(|(name, _)| *name == lower) else { return Ok(None) };
    if !cfg!(feature = "cloud") {
        let message = format!(
            "`{}` is in an object store, which this build leaves out: build it with the feature `cloud` \
             (`cargo install --features cloud`), or save to a local directory",
            given.display()
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    // `pathlib` makes `s3:/bucket` of `s3://bucket`.
    let rest = text[scheme.len() + 1..].trim_start_matches('/');
    Ok(Some(format!("{known}://{}", rest.trim_end_matches('/'))))
}

/// A path for what may be a URL.
fn local(given: &Path) -> io::Result<PathBuf> {
    let bytes = given.as_os_str().as_bytes();
    let Some(scheme) = scheme(given) else { return Ok(given.to_owned()) };
    if scheme != "file" {
        let message = format!(
            "`{}` is not a local path: `{scheme}` is not supported; save to a local directory or to \
             s3://, gs:// or az://",
            given.display()
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    // `pathlib` makes `file:/run` of `file:///run`.
    let rest = bytes.get("file:".len()..).unwrap_or_default();
    let path = match rest.strip_prefix(b"//") {
        Some(after) => after.strip_prefix(b"localhost").unwrap_or(after),
        None => rest,
    };
    if !path.starts_with(b"/") {
        let message =
            format!("`{}` names another host; write `file:///…` for a path", given.display());
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(PathBuf::from(OsString::from_vec(decoded(path))))
}

/// The scheme of a URL; `None` for a path.
///
/// A first component that ends in a colon counts too: that is what is left of a URL whose slashes were
/// merged, as `pathlib` does. A directory of such a name is written `./s3:`.
fn scheme(given: &Path) -> Option<&str> {
    let Some(Component::Normal(first)) = given.components().next() else { return None };
    let bytes = given.as_os_str().as_bytes();
    let scheme = first.to_str()?.strip_suffix(':')?;
    let mut letters = scheme.bytes();
    let is_url = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || b"+-.".contains(&letter))
        && bytes.get(first.len()) == Some(&b'/');
    is_url.then_some(scheme)
}

/// The bytes of a path with escapes such as `%41`.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let digits = path.get(at + 1..at + 3).filter(|_| byte == b'%');
        let number = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(number.unwrap_or(byte));
        at += if number.is_some() { 3 } else { 1 };
    }
    decoded
}

fn home() -> io::Result<PathBuf> {
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.ok_or_else(|| {
        let message = "cannot expand `~`: the environment variable `HOME` is not set";
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_never_taken_for_a_local_directory() {
        for url in ["https://h/x", "hf://a", "ftp://host/run"] {
            let error = Location::of(Path::new(url)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{url}");
            assert!(error.to_string().contains(url), "{error}");
        }
        for (url, known) in [
            ("s3://bucket/run", "s3://bucket/run"),
            ("gcs://b/", "gs://b"),
            ("S3a://b/c", "s3://b/c"),
            ("s3:/bucket/run", "s3://bucket/run"),
        ] {
            match Location::of(Path::new(url)) {
                Ok(location) => {
                    assert_eq!(location.as_url().unwrap().0, known);
                    assert_eq!(
                        (location.as_path(), location.to_string()),
                        (None, known.to_owned())
                    );
                    assert!(location.local_path().is_err());
                }
                Err(error) => assert!(error.to_string().contains("the feature `cloud`"), "{error}"),
            }
        }
        for path in ["./s3:/bucket", "a/s3://x", "s3", "s3:", "/s3://b", "9p://x", "a b://c"] {
            let absolute = std::path::absolute(path).unwrap();
            let location = Location::of(Path::new(path)).unwrap();
            assert_eq!(location.absolute().components().count(), absolute.components().count());
        }
    }

    #[test]
    fn a_file_url_and_a_tilde_are_paths() {
        let home = home().unwrap();
        for (given, path) in [
            ("file:///tmp/a%20b", PathBuf::from("/tmp/a b")),
            ("file://localhost/tmp/%zz", PathBuf::from("/tmp/%zz")),
            ("file:/tmp/run", PathBuf::from("/tmp/run")),
            ("~/run", home.join("run")),
            ("~", home.clone()),
        ] {
            assert_eq!(Location::of(Path::new(given)).unwrap().absolute(), path, "{given}");
        }
        assert!(Location::of(Path::new("file://host/tmp")).is_err());
        assert!(Location::of(Path::new("./~/run")).unwrap().absolute() != home.join("run"));
    }
}
