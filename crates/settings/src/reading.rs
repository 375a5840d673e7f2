//! Reading a file to its end, whatever is wrong with it.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{Findings, Problem, Problems};

/// Reads `text` as a `T` and checks it.
///
/// `stand_ins` is a `T` with a value for everything that is required, in its lists and maps too: the
/// first entry of a list, and the entry `*` of a map, stand for each. What the first entry of a list
/// lacks may be in another.
///
/// # Errors
///
/// Returns every problem at once, those of the form and those that `check` finds.
pub(crate) fn parse<T: DeserializeOwned>(
    text: &str,
    stand_ins: &str,
    check: impl FnOnce(&T, &mut Findings),
) -> Result<T, Problems> {
    let (value, mut problems) = read(text, stand_ins)?;
    let mut findings = Findings::default();
    check(&value, &mut findings);
    // A key that could not even be read stands in for itself; its stand-in is not judged.
    let stand_ins: Vec<String> = problems.iter().map(|read| read.key.clone()).collect();
    problems.extend(findings.0.into_iter().filter(|problem| {
        !stand_ins.iter().any(|read| {
            problem
                .key
                .strip_prefix(read.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }));
    if problems.is_empty() {
        Ok(value)
    } else {
        Err(Problems(problems))
    }
}

/// Deserializes `text`, putting a stand-in where something cannot be read and going on.
fn read<T: DeserializeOwned>(text: &str, stand_ins: &str) -> Result<(T, Vec<Problem>), Problems> {
    let whole = |what: String| {
        Problems(vec![Problem {
            key: "(file)".into(),
            what,
        }])
    };
    let mut value: Value =
        serde_json::from_str(text).map_err(|err| whole(format!("is not JSON: {err}")))?;
    let stand_ins: Value = serde_json::from_str(stand_ins)
        .map_err(|err| whole(format!("the stand-ins are not JSON: {err}")))?;
    let mut problems: Vec<Problem> = Vec::new();
    // How far above the key of the newest problem its cause was looked for already.
    let mut above = 0;
    loop {
        let err = match serde_path_to_error::deserialize(value.clone()) {
            Ok(read) => return Ok((read, problems)),
            Err(err) => err,
        };
        let what = err.inner().to_string();
        let mut keys: Vec<String> = err
            .path()
            .iter()
            .map(ToString::to_string)
            .filter(|key| key != ".")
            .collect();
        for marker in ["missing field `", "unknown field `"] {
            if let Some(rest) = what.strip_prefix(marker)
                && let Some(field) = rest.split('`').next()
                && keys.last().is_none_or(|last| last != field)
            {
                keys.push(field.into());
            }
        }
        let problem = Problem {
            key: if keys.is_empty() {
                "(file)".into()
            } else {
                keys.join(".")
            },
            what: in_our_words(&what),
        };
        // What kind of thing it is decides about all of its keys.
        if keys.last().is_some_and(|last| last == "kind") {
            keys.pop();
        }
        let is_foreign = what.starts_with("unknown field");
        // Each round removes one cause. Where that is not enough, what the key is in goes too.
        if problems.last() == Some(&problem) {
            above += 1;
        } else if problems.contains(&problem) {
            return Err(Problems(problems));
        } else {
            above = 0;
            problems.push(problem);
        }
        keys.truncate(keys.len().saturating_sub(above));
        if keys.is_empty() {
            return Err(Problems(problems));
        }
        let stand_in = if is_foreign && above == 0 {
            None
        } else {
            stand_in_at(&stand_ins, &keys)
        };
        replace(&mut value, stand_in, &keys);
    }
}

/// Turns serde's message into one that names the cause in the style of the other checks.
fn in_our_words(message: &str) -> String {
    if message.starts_with("missing field") {
        return "is missing".into();
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        return match rest.split_once("`, expected ") {
            Some((_, expected)) => format!("is no such key; expected {expected}"),
            None => "is no such key".into(),
        };
    }
    if let Some(rest) = message.strip_prefix("unknown variant `")
        && let Some((value, expected)) = rest.split_once("`, expected ")
    {
        // serde lists them as `one`, `two`; a text between two backticks is one of them.
        let choices: Vec<String> = expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|choice| format!("\"{choice}\""))
            .collect();
        return match choices.split_last() {
            Some((last, [])) => format!("\"{value}\" is not {last}, the only choice"),
            Some((last, others)) => format!("\"{value}\" is not {} or {last}", others.join(", ")),
            None => format!("\"{value}\" is no choice"),
        };
    }
    message.into()
}

/// Puts `stand_in` at `keys` into `value`, or removes the key if there is none.
fn replace(value: &mut Value, stand_in: Option<&Value>, keys: &[String]) {
    let Some((last, parents)) = keys.split_last() else {
        return;
    };
    let mut at = value;
    for key in parents {
        let next = match at {
            Value::Array(items) => index(key).and_then(|index| items.get_mut(index)),
            other => other.get_mut(key),
        };
        let Some(next) = next else { return };
        at = next;
    }
    match at {
        Value::Object(map) => match stand_in {
            Some(stand_in) => {
                map.insert(last.clone(), stand_in.clone());
            }
            None => {
                map.remove(last);
            }
        },
        Value::Array(items) => {
            if let Some(index) = index(last)
                && index < items.len()
            {
                match stand_in {
                    // In its place, so that the others keep their numbers.
                    Some(stand_in) => items[index] = stand_in.clone(),
                    None => {
                        items.remove(index);
                    }
                }
            }
        }
        _ => {}
    }
}

/// What stands in for the value at `keys`.
fn stand_in_at<'a>(stand_ins: &'a Value, keys: &[String]) -> Option<&'a Value> {
    let mut candidates = vec![stand_ins];
    for key in keys {
        candidates = candidates
            .into_iter()
            .flat_map(|candidate| match candidate {
                Value::Array(items) => items.iter().collect(),
                other => other
                    .get(key)
                    .or_else(|| other.get("*"))
                    .into_iter()
                    .collect::<Vec<_>>(),
            })
            .collect();
    }
    candidates.first().copied()
}

/// The number of a list's entry, of which the key is `[2]`.
fn index(key: &str) -> Option<usize> {
    key.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}
