//! A package for Debian and what comes of it: `debian-binary`, the control files and the data, in an `ar` archive.
//!
//! The format is deb(5), version 2.0.

use anyhow::{Result, ensure};

use crate::archive::{Archive, Effort};

/// What a package says of itself.
#[derive(Clone, Debug)]
pub struct Control<'a> {
    /// The package's name.
    pub package: &'a str,
    /// Its version.
    pub version: &'a semver::Version,
    /// Its architecture, as Rust calls it.
    pub arch: &'a str,
    /// What it is, in a line.
    pub summary: &'a str,
    /// What it is, in some lines.
    pub description: &'a str,
    /// Scripts that dpkg runs, by name.
    pub scripts: Vec<(&'a str, Vec<u8>)>,
}

impl Control<'_> {
    /// What the package's file is called.
    ///
    /// # Errors
    ///
    /// If Debian has no name for the architecture.
    pub fn file_name(&self) -> Result<String> {
        Ok(format!(
            "{}_{}_{}.deb",
            self.package,
            self.debian_version(),
            self.debian_arch()?
        ))
    }

    /// What comes before a release sorts before it by a tilde.
    fn debian_version(&self) -> String {
        self.version.to_string().replacen('-', "~", 1)
    }

    fn debian_arch(&self) -> Result<&'static str> {
        match self.arch {
            "x86_64" => Ok("amd64"),
            "aarch64" => Ok("arm64"),
            other => anyhow::bail!("Debian's name of the architecture {other} is not known here"),
        }
    }

    fn text(&self, installed: u64) -> Result<String> {
        let mut text = String::new();
        for (name, value) in [
            ("Package", self.package.to_owned()),
            ("Version", self.debian_version()),
            ("Architecture", self.debian_arch()?.to_owned()),
            ("Maintainer", "The maintainers of Fanout".to_owned()),
            ("Section", "net".to_owned()),
            ("Priority", "optional".to_owned()),
            ("Installed-Size", installed.div_ceil(1024).to_string()),
            ("Description", self.summary.to_owned()),
        ] {
            ensure!(!value.contains('\n'), "{name} is one line");
            text.push_str(&format!("{name}: {value}\n"));
        }
        for line in self.description.lines() {
            text.push_str(&format!(" {}\n", if line.is_empty() { "." } else { line }));
        }
        Ok(text)
    }
}

/// Makes a package. `data` is what is installed, [of Debian](Archive::of_debian).
///
/// # Errors
///
/// If the control file can't be written.
pub fn pack(control: &Control<'_>, data: &Archive, seconds: u64, effort: Effort) -> Result<Vec<u8>> {
    let mut about = Archive::of_debian(seconds);
    about.file("control", 0o644, control.text(data.bytes())?);
    for (name, script) in &control.scripts {
        about.file(*name, 0o755, script.clone());
    }
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", about.tar_gz(effort)?),
        ("data.tar.gz", data.tar_gz(effort)?),
    ] {
        let header = format!(
            "{name:<16}{seconds:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            "100644",
            bytes.len()
        );
        ensure!(header.len() == 60, "a header of ar has 60 bytes: {header:?}");
        ar.extend(header.into_bytes());
        ar.extend(&bytes);
        // Entries begin at even places.
        if bytes.len() % 2 == 1 {
            ar.push(b'\n');
        }
    }
    Ok(ar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_a_release_sorts_before_it() {
        let version = "0.3.0-rc.1".parse().unwrap();
        let control = Control {
            package: "fanout",
            version: &version,
            arch: "x86_64",
            summary: "An event bus",
            description: "One.\n\nTwo.",
            scripts: Vec::new(),
        };
        assert_eq!(control.file_name().unwrap(), "fanout_0.3.0~rc.1_amd64.deb");
        let text = control.text(2049).unwrap();
        assert!(
            text.contains("Installed-Size: 3\nDescription: An event bus\n One.\n .\n Two.\n"),
            "{text}"
        );
        assert!(
            Control {
                arch: "pdp11",
                ..control
            }
            .file_name()
            .is_err()
        );
    }
}
