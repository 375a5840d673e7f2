//! Which source is taken, and what follows when none can be. Nothing is touched here.

use instance_state::PreseedOutcome;
use settings::Choose;

use crate::situation::Known;
use crate::source::Answer;

/// Turns down what is of another cluster than the one that was here, or older than what it had archived.
pub fn judged(answer: Answer, known: &Known) -> Answer {
    let Answer::Has(offer) = &answer else {
        return answer;
    };
    if let Some(own) = known.system_identifier
        && own != offer.system_identifier
    {
        return Answer::CannotSay {
            why: format!(
                "it holds another cluster: system identifier {}, and this instance's is {own} by \"{}\"",
                offer.system_identifier,
                known.by.display()
            ),
            hint: Some(format!(
                "find out whose data this is; if the cluster that was here may be lost, move \"{}\" away",
                known.by.display()
            )),
        };
    }
    if let Some(archived) = known.archived
        && archived > offer.reach
    {
        return Answer::CannotSay {
            why: format!(
                "it is older than what was here: it reaches to {}, and {archived} had been archived by \"{}\"",
                offer.reach,
                known.by.display()
            ),
            hint: Some(
                "look for what is missing; a restore by hand takes it as it is: `backstay restore`"
                    .to_owned(),
            ),
        };
    }
    answer
}

/// The places in `answers` of the sources to restore from, the one to begin with first.
pub fn in_order(answers: &[Answer], choose: Choose) -> Vec<usize> {
    let mut usable: Vec<(usize, _)> = answers
        .iter()
        .enumerate()
        .filter_map(|(index, answer)| match answer {
            Answer::Has(offer) => Some((index, offer.reach)),
            _ => None,
        })
        .collect();
    if choose == Choose::Freshest {
        // Of two that reach equally far the one that was declared first.
        usable.sort_by_key(|(_, reach)| std::cmp::Reverse(*reach));
    }
    usable.into_iter().map(|(index, _)| index).collect()
}

/// The place in `answers` of the source that a restore would begin with, for a plan. What has to be received first
/// counts in the declared order; how fresh it is nobody knows before.
pub fn first(answers: &[Answer], choose: Choose) -> Option<usize> {
    let has_to_come = answers
        .iter()
        .position(|answer| matches!(answer, Answer::HasToCome(_)));
    let is_there = in_order(answers, choose).first().copied();
    match (choose, has_to_come, is_there) {
        (Choose::Order, Some(to_come), Some(there)) => Some(to_come.min(there)),
        (_, to_come, there) => there.or(to_come),
    }
}

/// What it comes to when nothing was restored.
pub fn without_restore(answers: &[Answer], may_do_without_proof: bool) -> PreseedOutcome {
    if answers.iter().all(|answer| *answer == Answer::Nothing) {
        PreseedOutcome::NothingToRestore
    } else if may_do_without_proof {
        PreseedOutcome::EmptyWithoutProof
    } else {
        PreseedOutcome::Failed
    }
}

#[cfg(test)]
mod tests {
    use instance_state::Reach;
    use jiff::Timestamp;
    use wal::{Lsn, SystemIdentifier, TimelineId};

    use super::*;
    use crate::source::Offer;

    fn reach(timeline: u32, lsn: u64) -> Reach {
        Reach {
            timeline: TimelineId::new(timeline).unwrap(),
            lsn: Lsn(lsn),
        }
    }

    fn has(timeline: u32, lsn: u64) -> Answer {
        Answer::Has(Offer {
            system_identifier: SystemIdentifier(7),
            starting_point: "base backup 20261121-000000".into(),
            starting_time: Timestamp::UNIX_EPOCH,
            reach: reach(timeline, lsn),
            changes_before: None,
            fetch_bytes: 0,
            content_bytes: 0,
            from_own_archive: false,
            origin: "base-backup".into(),
        })
    }

    fn cannot_say() -> Answer {
        Answer::CannotSay {
            why: "the host is down".into(),
            hint: None,
        }
    }

    fn known(system_identifier: u64, archived: Option<Reach>) -> Known {
        Known {
            system_identifier: Some(SystemIdentifier(system_identifier)),
            archived,
            by: "/state/instance.json".into(),
        }
    }

    #[test]
    fn the_order_counts_unless_the_freshest_is_wanted() {
        let answers = [
            cannot_say(),
            has(1, 5),
            Answer::Nothing,
            has(1, 9),
            has(2, 1),
            has(2, 1),
        ];
        assert_eq!(in_order(&answers, Choose::Order), [1, 3, 4, 5]);
        assert_eq!(in_order(&answers, Choose::Freshest), [4, 5, 3, 1]);
    }

    #[test]
    fn what_has_to_be_received_is_planned_in_its_turn_and_is_no_proof() {
        let to_come = Answer::HasToCome(crate::source::Receivable {
            snapshot: "vault/main@hourly".into(),
            host: "nas".into(),
            taken: Timestamp::UNIX_EPOCH,
            bytes: 1,
        });
        let there = has(1, 5);
        let both = [to_come.clone(), there.clone()];
        assert_eq!(first(&both, Choose::Order), Some(0));
        assert_eq!(first(&both, Choose::Freshest), Some(1));
        assert_eq!(first(&[there, to_come.clone()], Choose::Order), Some(0));
        for choose in [Choose::Order, Choose::Freshest] {
            assert_eq!(first(&[cannot_say(), to_come.clone()], choose), Some(1));
            assert_eq!(first(&[cannot_say(), Answer::Nothing], choose), None);
        }
        assert_eq!(in_order(&both, Choose::Order), [1]);
        assert_eq!(
            without_restore(&[Answer::Nothing, to_come], false),
            PreseedOutcome::Failed
        );
    }

    #[test]
    fn s12_another_cluster_is_turned_down() {
        let answer = judged(has(1, 5), &known(8, None));
        let Answer::CannotSay { why, .. } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(
            why,
            "it holds another cluster: system identifier 7, and this instance's is 8 by \"/state/instance.json\""
        );
        assert_eq!(judged(has(1, 5), &Known::default()), has(1, 5));
        assert_eq!(judged(cannot_say(), &known(8, None)), cannot_say());
    }

    #[test]
    fn s10_what_is_older_than_what_was_here_is_turned_down() {
        let at = |archived| judged(has(2, 5), &known(7, Some(archived)));
        for fine in [reach(2, 5), reach(2, 4), reach(1, 9)] {
            assert_eq!(at(fine), has(2, 5));
        }
        for later in [reach(2, 6), reach(3, 1)] {
            let Answer::CannotSay { why, .. } = at(later) else {
                panic!("{later} is later");
            };
            assert!(
                why.starts_with("it is older than what was here: it reaches to 0/5 on timeline 2"),
                "{why}"
            );
        }
    }

    #[test]
    fn s19_s20_only_proof_by_all_or_consent_lets_the_server_begin_anew() {
        let cases = [
            (
                vec![Answer::Nothing, Answer::Nothing],
                false,
                PreseedOutcome::NothingToRestore,
            ),
            (
                vec![Answer::Nothing, cannot_say()],
                false,
                PreseedOutcome::Failed,
            ),
            (vec![has(1, 1)], false, PreseedOutcome::Failed),
            (
                vec![Answer::Nothing, cannot_say()],
                true,
                PreseedOutcome::EmptyWithoutProof,
            ),
            (
                vec![Answer::Nothing],
                true,
                PreseedOutcome::NothingToRestore,
            ),
        ];
        for (answers, consent, expected) in cases {
            assert_eq!(without_restore(&answers, consent), expected, "{answers:?}");
        }
    }
}
