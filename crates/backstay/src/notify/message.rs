//! What is said.

use settings::notifications::{Priority, Template};

use super::unit::Facts;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether something failed; otherwise it works again.
    pub is_failure: bool,
    /// How loud it is.
    pub priority: Priority,
    /// Its title, one line.
    pub title: String,
    /// Its text.
    pub body: String,
}

impl Message {
    /// What `template` says of a unit that failed.
    pub fn of_failure(template: &Template, facts: &Facts, host: &str) -> Self {
        let value = |name: &str| {
            Some(match name {
                "description" => facts.description.as_str(),
                "host" => host,
                "log" => &facts.log,
                "result" => &facts.result,
                "status" => &facts.status,
                "time" => &facts.time,
                "unit" => &facts.unit,
                _ => return None,
            })
        };
        Self {
            is_failure: true,
            priority: template.priority,
            title: one_line(&filled(&template.title, value)),
            body: filled(&template.body, value),
        }
    }

    /// That a unit works again.
    pub fn of_recovery(priority: Priority, unit: &str, description: &str, host: &str) -> Self {
        Self {
            is_failure: false,
            // Nobody has to get up for this.
            priority: priority.min(Priority::Normal),
            title: one_line(&format!("{host}: {unit} works again")),
            body: format!("{description} ({unit}) has succeeded after a failure that was told."),
        }
    }
}

/// Puts values in the place of their names in braces, once: what a value says is not looked at again.
fn filled<'a>(template: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if let Some(value) = value(name) => {
                text.push_str(value);
                rest = behind;
            }
            _ => {
                text.push('{');
                rest = after;
            }
        }
    }
    text + rest
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_once_and_other_braces_stay() {
        let mut facts = Facts::sample();
        facts.log = "a line with {host}\nand {another".into();
        facts.unit = "x.service".into();
        let template = Template {
            backends: Vec::new(),
            priority: Priority::High,
            title: "{host}: {unit}\n failed".into(),
            body: "{log} {1} {} {unit}{result}".into(),
        };
        let message = Message::of_failure(&template, &facts, "forge");
        assert_eq!(message.title, "forge: x.service failed");
        assert_eq!(
            message.body,
            "a line with {host}\nand {another {1} {} x.serviceexit-code"
        );
    }

    #[test]
    fn good_news_wakes_nobody() {
        let loud = Message::of_recovery(Priority::Emergency, "x.service", "Something", "forge");
        assert_eq!(loud.priority, Priority::Normal);
        assert_eq!(loud.title, "forge: x.service works again");
        let silent = Message::of_recovery(Priority::Silent, "x.service", "Something", "forge");
        assert_eq!(silent.priority, Priority::Silent);
    }
}
