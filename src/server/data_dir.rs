//! Whether a directory can hold the data, found out before anything is made in it.

use std::{fs, path::Path};

use rustix::fs::{Access, access};

/// What is wrong with a data directory, or with where it is to be made; `None` if it can
/// be used.
pub(super) fn problem(path: &Path) -> Option<String> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Some("--data-dir is empty: give a directory".to_owned());
    }
    // What is there of it: itself, or the nearest of those that it is to be made in.
    let found = path.ancestors().find(|it| it.as_os_str().is_empty() || fs::symlink_metadata(it).is_ok());
    let found = found.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = found.display();
    match fs::metadata(found) {
        Ok(about) if !about.is_dir() && found == path => {
            Some(format!("--data-dir {shown} is a file: give a directory"))
        }
        Ok(about) if !about.is_dir() => Some(format!(
            "--data-dir {shown} cannot be made, because {folder} is a file: give another directory"
        )),
        Ok(_) if access(found, Access::WRITE_OK | Access::EXEC_OK).is_err() => Some(format!(
            "--data-dir {shown} cannot be used, because this user may not write to {folder}: change its owner or \
             its mode, or give another directory"
        )),
        Ok(_) => None,
        Err(error) => {
            Some(format!("--data-dir {shown} cannot be used, because {folder} cannot be read: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_there_or_can_be_made_is_good() {
        let folder = tempfile::tempdir().unwrap();
        for good in [folder.path().to_owned(), folder.path().join("a/b/c"), "relative/data".into()] {
            assert_eq!(problem(&good), None, "{good:?}");
        }
        assert!(!folder.path().join("a").exists(), "nothing is made");
    }

    #[test]
    fn a_file_is_no_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let told = problem(&file).unwrap();
        assert!(told.contains(&file.display().to_string()) && told.contains("is a file"), "{told}");
        let told = problem(&file.join("data")).unwrap();
        assert!(told.contains("cannot be made, because"), "{told}");
        assert!(problem(Path::new("")).is_some());
    }
}
