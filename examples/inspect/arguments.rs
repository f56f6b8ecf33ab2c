//! What is wanted

use shmem_bind::inspect::DEFAULT_LIMIT;
use std::ffi::OsString;
use std::path::PathBuf;

pub const USAGE: &str = "usage: inspect [NAME] [--json] [--svg FILE] [--watch] [--sweep] [--unlink] [--yes] \
[--limit BYTES]\n\
\x20 NAME           the segment; without it, a line for each one that there is\n\
\x20 --json         for machines: one line of JSON\n\
\x20 --svg FILE     draws a map of its memory, too\n\
\x20 --watch        looks again each second, until it is gone\n\
\x20 --sweep        gives back what processes held that died\n\
\x20 --unlink       takes the name away\n\
\x20 --yes          cleans up without asking\n\
\x20 --limit BYTES  copies no more of its memory than this, 1 GiB if not said";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub name: Option<String>,
    pub json: bool,
    pub svg: Option<PathBuf>,
    pub watch: bool,
    pub sweep: bool,
    pub unlink: bool,
    pub yes: bool,
    pub help: bool,
    pub limit: u64,
}

impl Arguments {
    /// Reads the command line; the error says what is wrong with it.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut parsed = Self { limit: DEFAULT_LIMIT, ..Self::default() };
        let mut words = words;
        let mut is_over = false;
        while let Some(word) = words.next() {
            let option = word.to_str().filter(|word| !is_over && word.starts_with('-'));
            let mut operand = |option| words.next().ok_or(format!("{option} wants something behind it"));
            match option {
                Some("--") => is_over = true,
                Some("--json") => parsed.json = true,
                Some("--watch") => parsed.watch = true,
                Some("--sweep") => parsed.sweep = true,
                Some("--unlink") => parsed.unlink = true,
                Some("--yes") => parsed.yes = true,
                Some("--help" | "-h") => parsed.help = true,
                Some("--svg") => parsed.svg = Some(operand("--svg")?.into()),
                Some("--limit") => {
                    let limit = operand("--limit")?;
                    let number = limit.to_str().and_then(|limit| limit.parse().ok());
                    parsed.limit = number.ok_or("--limit wants a number of bytes")?;
                }
                Some(option) => return Err(format!("there is no option {option:?}")),
                None if parsed.name.is_some() => return Err("more than one name".to_owned()),
                None => {
                    let name =
                        word.into_string().map_err(|_| "the name is no UTF-8, as names of segments are")?;
                    parsed.name = Some(name);
                }
            }
        }
        parsed.check()?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), String> {
        let cleans = self.sweep || self.unlink;
        let wants_name = cleans || self.watch || self.svg.is_some();
        if self.name.is_none() && wants_name && !self.help {
            return Err("of which segment? Say its name".to_owned());
        }
        if self.watch && (cleans || self.svg.is_some()) {
            return Err("--watch goes with --json alone".to_owned());
        }
        if self.json && cleans && !self.yes {
            return Err("--json does not ask; say --yes, too".to_owned());
        }
        if self.yes && !cleans {
            return Err("--yes to what? Say --sweep or --unlink".to_owned());
        }
        Ok(())
    }
}
