//! The file of the picture: it is opened before anything else, because a path that cannot be written is an error at once.
//!
//! This file uses only the standard library and nothing of the program around it, so that several programs can compile it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A file that will be written at the end. Until then an existing file keeps its content. A new one is removed if it is not written.
#[derive(Debug)]
pub(crate) struct SvgFile {
    path: PathBuf,
    file: File,
    is_new: bool,
}

impl SvgFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let text = format!(
                "cannot write the picture {}: {error}; --report names a file to write",
                path.display()
            );
            io::Error::new(error.kind(), text)
        };
        let mut options = OpenOptions::new();
        let (file, is_new) = match options.write(true).create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (OpenOptions::new().write(true).open(path).map_err(explain)?, false)
            }
            Err(error) => return Err(explain(error)),
        };
        Ok(Self { path: path.to_owned(), file, is_new })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes this in the place of what the file had.
    pub(crate) fn write(mut self, content: &str) -> io::Result<()> {
        // A pipe or a device has no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(content.as_bytes()).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write the picture {}: {error}", self.path.display()))
        })?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for SvgFile {
    fn drop(&mut self) {
        if self.is_new {
            if let Err(error) = fs::remove_file(&self.path) {
                eprintln!("cannot remove {}: {error}", self.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("svg-file-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("a directory of its own");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it is there");
        }
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let folder = Folder::new("wrong");
        for path in [folder.0.clone(), folder.0.join("missing/a.svg")] {
            let error = SvgFile::open(&path).expect_err("no file can be there").to_string();
            assert!(error.starts_with(&format!("cannot write the picture {}: ", path.display())), "{error}");
        }
    }

    #[test]
    fn a_file_changes_only_when_it_is_written() {
        let folder = Folder::new("written");
        let path = folder.0.join("a.svg");
        drop(SvgFile::open(&path).expect("it is new"));
        assert!(!path.exists());

        fs::write(&path, "a longer text").expect("it is new");
        drop(SvgFile::open(&path).expect("it is there"));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "a longer text");

        SvgFile::open(&path).expect("it is there").write("short").expect("it is there");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "short");
    }
}
