//! The fuzz targets by hand: one input run on stable, and what a fuzzer begins with.
//!
//! Rule: an input that a fuzzer found behaves here as it did there.
//!
//! ```text
//! cargo run -p bascule-protocols --features fuzzing --example fuzz -- TARGET FILE…
//! cargo run -p bascule-protocols --features fuzzing --example fuzz -- --seeds FOLDER
//! ```

#![expect(clippy::print_stdout, reason = "it is a tool for people")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bascule_protocols::fuzz::{TARGETS, seeds, target};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [seeds, folder] if seeds == "--seeds" => plant(Path::new(folder))?,
        [name, files @ ..] if !files.is_empty() => {
            let Some(target) = target(name) else { return Ok(usage()) };
            for file in files {
                (target.run)(&fs::read(file)?);
                println!("{file}: everything holds");
            }
        }
        _ => return Ok(usage()),
    }
    Ok(ExitCode::SUCCESS)
}

fn usage() -> ExitCode {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    println!("fuzz TARGET FILE...\nfuzz --seeds FOLDER\nwhere TARGET is one of {}", names.join(", "));
    ExitCode::from(2)
}

/// Writes `FOLDER/TARGET/…` and `FOLDER/TARGET.dict`, and the names to stdout.
fn plant(folder: &Path) -> io::Result<()> {
    let testdata = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"));
    for target in TARGETS {
        let corpus = folder.join(target.name);
        fs::create_dir_all(&corpus)?;
        let words = target.words.iter().map(|word| format!("\"{}\"\n", escaped(word.as_bytes())));
        fs::write(folder.join(format!("{}.dict", target.name)), words.collect::<String>())?;
        if let Ok(found) = fs::read_dir(testdata.join("fuzz").join(target.name)) {
            for entry in found {
                let entry = entry?;
                fs::copy(entry.path(), corpus.join(entry.file_name()))?;
            }
        }
        println!("{}", target.name);
    }
    for entry in fs::read_dir(&testdata)? {
        let path = entry?.path();
        let Some(name) = path.file_stem().filter(|_| path.is_file()) else { continue };
        for (target, seed) in seeds(&fs::read_to_string(&path)?) {
            fs::write(folder.join(target).join(name), seed)?;
        }
    }
    Ok(())
}

/// As libFuzzer's dictionaries want it.
fn escaped(word: &[u8]) -> String {
    let byte = |byte: &u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02X}"),
    };
    word.iter().map(byte).collect()
}
