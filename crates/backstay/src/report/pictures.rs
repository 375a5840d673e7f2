//! Pictures of the report and of the status, by a real browser. `cargo xtask screenshots` keeps them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use command::Command;

use super::page;
use crate::status::{sample, screen};

const BROWSER: &str = "/usr/bin/chromium";
/// Names the directory in which the pictures stay.
const KEPT: &str = "BACKSTAY_SCREENSHOTS";

/// What a terminal would show of `text`, as a page.
fn terminal(text: &str) -> String {
    let mut page = String::from(
        "<!DOCTYPE html><meta charset=\"utf-8\"/><style>body{margin:0;background:#14181f}\
         pre{margin:0;padding:18px 22px;color:#d6dbe3;font:14px/1.45 'DejaVu Sans Mono',monospace}\
         .c1{font-weight:bold;color:#fff}.c2{color:#8a94a3}.c132{font-weight:bold;color:#49b877}\
         .c133{font-weight:bold;color:#dca53a}.c131{font-weight:bold;color:#ef6b6b}.c135{color:#b989d6}</style><pre>",
    );
    for (number, part) in text.split("\x1b[").enumerate() {
        let rest = match part.split_once('m') {
            Some(("0", rest)) if number > 0 => {
                page.push_str("</span>");
                rest
            }
            Some((code, rest)) if number > 0 => {
                let _ = write!(page, "<span class=\"c{}\">", code.replace(';', ""));
                rest
            }
            _ => part,
        };
        page.push_str(&page::escaped(rest));
    }
    page + "</pre>"
}

/// Lets the browser draw `html`.
fn draw(directory: &Path, name: &str, html: &str, size: &str) -> Result<PathBuf> {
    let file = directory.join(format!("{name}.html"));
    std::fs::write(&file, html)?;
    let picture = directory.join(format!("{name}.png"));
    Command::new(BROWSER)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .arg(format!("--window-size={size}"))
        .arg(format!(
            "--user-data-dir={}",
            directory.join("profile").display()
        ))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", file.display()))
        .env("HOME", directory)
        .directory(directory)
        .run()?;
    Ok(picture)
}

/// Width and height of a picture, from its header.
fn size(picture: &Path) -> Result<(u32, u32)> {
    let bytes = std::fs::read(picture)?;
    ensure!(bytes.starts_with(b"\x89PNG"), "it is no PNG");
    let number = |at: usize| -> Result<u32> {
        let bytes = bytes.get(at..at + 4).context("it is cut off")?;
        Ok(u32::from_be_bytes(bytes.try_into()?))
    };
    Ok((number(16)?, number(20)?))
}

#[test]
fn a_browser_draws_the_report_and_the_status() -> Result<()> {
    if !Path::new(BROWSER).exists() {
        testbed::skip!("{BROWSER} is not installed; `cargo xtask screenshots` installs it");
    }
    let directory = tempfile::tempdir()?;
    let mut ill = sample::healthy();
    sample::with_a_gap(&mut ill);
    let mut broken = sample::broken();
    broken.findings[1].commands.clear();
    let screens = [&sample::healthy(), &broken]
        .map(|status| screen::text(status, screen::Ink::Colour))
        .join("\n");
    let report = page::html(&[("main".to_owned(), Ok(ill))], sample::NOW.parse()?);
    for (name, html, wanted) in [
        ("report", report, (1120, 1560)),
        ("status", terminal(&screens), (1000, 640)),
    ] {
        let picture = draw(
            directory.path(),
            name,
            &html,
            &format!("{},{}", wanted.0, wanted.1),
        )?;
        assert_eq!(size(&picture)?, wanted, "{name}");
        if let Some(kept) = std::env::var_os(KEPT) {
            let kept = Path::new(&kept).join(format!("{name}.png"));
            std::fs::write(kept, std::fs::read(&picture)?)?;
        }
    }
    Ok(())
}
