//! Whether two spellings of a property's value mean the same.

/// Whether `declared`, as a person writes it for `zfs set`, is what `zfs get -p` prints as `current`.
///
/// `8K` is `8192`, and `none` is how a person says a limit of `0`.
#[must_use]
pub fn same_value(declared: &str, current: &str) -> bool {
    if declared == current {
        return true;
    }
    match (number(declared), number(current)) {
        (Some(declared), Some(current)) => declared == current,
        _ => false,
    }
}

/// # Source
///
/// zfsprops(7): sizes may have a suffix from K to Z, alone or followed by B or iB, in either case,
/// and a fraction.
fn number(text: &str) -> Option<u128> {
    if text == "none" {
        return Some(0);
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.to_ascii_uppercase();
    let unit = suffix
        .strip_suffix("IB")
        .or_else(|| suffix.strip_suffix('B'))
        .unwrap_or(&suffix);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        "Z" => 70,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = whole.parse().ok()?;
    let mut value = whole.checked_shl(shift)?;
    if !fraction.is_empty() {
        let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let fraction: u128 = fraction.parse().ok()?;
        value += fraction.checked_mul(1 << shift)? / scale;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_same_in_every_spelling() {
        for (declared, current) in [
            ("8K", "8192"),
            ("128k", "131072"),
            ("1M", "1048576"),
            ("1MiB", "1048576"),
            ("1.5G", "1610612736"),
            ("10GB", "10737418240"),
            ("none", "0"),
            ("lz4", "lz4"),
            ("16M", "16777216"),
        ] {
            assert!(same_value(declared, current), "{declared} {current}");
        }
        for (declared, current) in [
            ("8K", "16384"),
            ("on", "off"),
            ("zstd", "zstd-3"),
            ("none", "legacy"),
            ("1.x", "1"),
            ("8Q", "8"),
        ] {
            assert!(!same_value(declared, current), "{declared} {current}");
        }
    }
}
