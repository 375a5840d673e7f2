use proptest::prelude::*;

use super::*;

/// 2026-11-21 12:00:00 UTC.
fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn instant(text: &str) -> Target {
    Target::Time(text.parse().unwrap())
}

#[track_caller]
fn reads(text: &str, expected: &Target) {
    assert_eq!(
        Target::parse(text, now()).as_ref(),
        Ok(expected),
        "{text:?}"
    );
}

/// Message and hint, as a program prints them.
#[track_caller]
fn refuses(text: &str, expected: &str) {
    let err = Target::parse(text, now()).unwrap_err();
    let said = format!("{err}\nhint: {}", err.hint());
    assert_eq!(said, expected, "{text:?}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn each_kind_of_target_has_a_form() {
    reads("xid:742", &Target::Xid(742));
    reads("xid:4294967295", &Target::Xid(4_294_967_295));
    reads("lsn:0/7000028", &Target::Lsn(Lsn(0x0700_0028)));
    reads("lsn:a1/ff", &Target::Lsn(Lsn(0xA1_0000_00FF)));
    reads(
        "name:before_upgrade",
        &Target::Name("before_upgrade".into()),
    );
    reads("name:a: b 'c'", &Target::Name("a: b 'c'".into()));
    reads("latest", &Target::Latest);
    reads("immediate", &Target::Immediate);
    reads("  latest\n", &Target::Latest);
}

#[test]
fn a_time_is_read_with_an_offset_a_region_or_utc() {
    for text in [
        "2026-10-11 14:30 Europe/Berlin",
        "2026-10-11 14:30:00 europe/berlin",
        "2026-10-11T14:30:00+02:00",
        "2026-10-11 14:30+02",
        "2026-10-11 14:30 +02:00",
        "2026-10-11 14:30 +0200",
        "2026-10-11 14:30+02:00:00",
        "2026-10-11 12:30Z",
        "2026-10-11t12:30:00z",
        "2026-10-11 12:30 UTC",
        "2026-10-11 12:30 utc",
        "2026-10-11 12:30-00:00",
        "2026-10-11 12:30 Etc/UTC",
        "2026-10-11 08:30 America/New_York",
        "2026-10-11 18:00+05:30",
        "2026-10-11 04:30-08",
    ] {
        reads(text, &instant("2026-10-11T12:30:00Z"));
    }
    reads(
        "2026-10-11 14:30:05.123456+02:00",
        &instant("2026-10-11T12:30:05.123456Z"),
    );
    reads("2026-10-11 12:30:05.5Z", &instant("2026-10-11T12:30:05.5Z"));
    reads(
        "2026-10-11T12:30:05.123456000Z",
        &instant("2026-10-11T12:30:05.123456Z"),
    );
    // Berlin had 53 minutes and 28 seconds before 1893.
    reads(
        "1890-01-01 00:53:28 Europe/Berlin",
        &instant("1890-01-01T00:00:00Z"),
    );
}

#[test]
fn a_duration_before_now_is_read() {
    for (text, expected) in [
        ("10 minutes ago", "2026-11-21T11:50:00Z"),
        ("1 minute ago", "2026-11-21T11:59:00Z"),
        ("90 seconds ago", "2026-11-21T11:58:30Z"),
        ("2 hours ago", "2026-11-21T10:00:00Z"),
        ("1 hour 30 minutes ago", "2026-11-21T10:30:00Z"),
        ("3 days ago", "2026-11-18T12:00:00Z"),
        ("1 day 1 hour 1 minute 1 second ago", "2026-11-20T10:58:59Z"),
        ("0 seconds ago", "2026-11-21T12:00:00Z"),
    ] {
        reads(text, &instant(expected));
    }
}

#[test]
fn a_duration_is_cut_to_the_microsecond() {
    let now = "2026-11-21T12:00:00.123456789Z".parse().unwrap();
    assert_eq!(
        Target::parse("1 second ago", now),
        Ok(instant("2026-11-21T11:59:59.123456Z"))
    );
}

#[test]
fn a_slip_in_a_duration_does_not_add_up() {
    for text in [
        "minutes ago",
        "10 ago",
        "10 minutes 5 minutes ago",
        "10 minutes 1 hour ago",
        "-10 minutes ago",
        "+10 minutes ago",
        "1.5 hours ago",
        "ten minutes ago",
        "10minutes ago",
        "10 weeks ago",
        "2 months ago",
        "4294967296 seconds ago",
    ] {
        refuses(
            text,
            &format!(
                "\"{text}\" is not a duration before now\n\
                 hint: use days, hours, minutes and seconds in this order, such as \"1 hour 30 minutes ago\""
            ),
        );
    }
    refuses(
        "4294967295 days ago",
        &format!("\"4294967295 days ago\" is before the beginning of time\nhint: {FORMS}"),
    );
}

#[test]
fn r12_a_time_without_a_zone_is_refused() {
    refuses(
        "2026-10-11 14:30",
        "\"2026-10-11 14:30\" has no time zone\n\
         hint: add one: \"2026-10-11 14:30 Europe/Berlin\", \"2026-10-11 14:30+02:00\" or \"2026-10-11 14:30 UTC\"",
    );
    refuses(
        "2026-10-11",
        "\"2026-10-11\" has no time of day\n\
         hint: add one, and a zone: \"2026-10-11 14:30 Europe/Berlin\"",
    );
}

#[test]
fn r12_an_abbreviation_of_a_zone_is_refused() {
    for zone in [
        "EST", "CEST", "CET", "GMT", "IST", "PST8PDT", "Europe", "local",
    ] {
        refuses(
            &format!("2026-10-11 14:30 {zone}"),
            &format!(
                "\"2026-10-11 14:30 {zone}\" has the zone \"{zone}\", \
                 and an abbreviation means different things in different places\n\
                 hint: write the offset (+02:00) or the region (Europe/Berlin) instead"
            ),
        );
    }
}

#[test]
fn a_region_or_an_offset_that_does_not_exist_is_refused() {
    refuses(
        "2026-10-11 14:30 Europe/Brelin",
        "\"2026-10-11 14:30 Europe/Brelin\" has the zone \"Europe/Brelin\", which is not known\n\
         hint: write the offset (+02:00) or a region of the tz database (Europe/Berlin)",
    );
    refuses(
        "2026-10-11 14:30 Europe/Berlin CEST",
        "\"2026-10-11 14:30 Europe/Berlin CEST\" has the zone \"Europe/Berlin CEST\", which is not known\n\
         hint: write the offset (+02:00) or a region of the tz database (Europe/Berlin)",
    );
    for offset in [
        "+2",
        "+16",
        "+02:60",
        "+02:00:60",
        "+:00",
        "+02:0",
        "+020",
        "+02:00:00:00",
        "+",
        "+-2",
    ] {
        refuses(
            &format!("2026-10-11 14:30{offset}"),
            &format!(
                "\"2026-10-11 14:30{offset}\" has the offset \"{offset}\", which does not exist\n\
                 hint: write the offset from UTC, such as +02:00 or -05"
            ),
        );
    }
}

#[test]
fn r12_a_time_that_the_clocks_showed_twice_is_refused_with_both_instants() {
    refuses(
        "2026-10-25 02:30 Europe/Berlin",
        "\"2026-10-25 02:30 Europe/Berlin\" is a time that the clocks of Europe/Berlin showed twice, as they were changed\n\
         hint: write \"2026-10-25 02:30:00+02:00\" (2026-10-25 00:30:00.000000+00) or \
         \"2026-10-25 02:30:00+01:00\" (2026-10-25 01:30:00.000000+00)",
    );
    reads(
        "2026-10-25 02:30:00+02:00",
        &instant("2026-10-25T00:30:00Z"),
    );
    reads(
        "2026-10-25 02:30:00+01:00",
        &instant("2026-10-25T01:30:00Z"),
    );
    // The hours on both sides are told apart.
    reads(
        "2026-10-25 01:59:59 Europe/Berlin",
        &instant("2026-10-24T23:59:59Z"),
    );
    reads(
        "2026-10-25 03:00 Europe/Berlin",
        &instant("2026-10-25T02:00:00Z"),
    );
}

#[test]
fn r12_a_time_that_the_clocks_skipped_is_refused_with_both_readings() {
    refuses(
        "2026-03-29 02:30:05.25 Europe/Berlin",
        "\"2026-03-29 02:30:05.25 Europe/Berlin\" is a time that the clocks of Europe/Berlin showed never, as they were changed\n\
         hint: write \"2026-03-29 02:30:05.25+01:00\" (2026-03-29 01:30:05.250000+00) or \
         \"2026-03-29 02:30:05.25+02:00\" (2026-03-29 00:30:05.250000+00)",
    );
    reads(
        "2026-03-29 03:00 Europe/Berlin",
        &instant("2026-03-29T01:00:00Z"),
    );
}

#[test]
fn r12_second_60_is_refused() {
    refuses(
        "2016-12-31 23:59:60Z",
        "\"2016-12-31 23:59:60Z\" has a second 60, which PostgreSQL does not have\n\
         hint: use second 59, or second 0 of the next minute",
    );
}

#[test]
fn r12_words_for_an_instant_are_refused() {
    for (text, hint) in [
        (
            "now",
            "use \"latest\" for the newest state that can be restored",
        ),
        (
            "infinity",
            "use \"latest\" for the newest state that can be restored",
        ),
        (
            "-infinity",
            "use \"immediate\" for the state at the end of a base backup",
        ),
        (
            "yesterday",
            "write the date and the time with a zone, such as \"2026-10-11 00:00 Europe/Berlin\"",
        ),
        ("", FORMS),
        ("Latest", FORMS),
        ("742", FORMS),
        ("0/7000028", FORMS),
        ("11.10.2026 14:30 UTC", FORMS),
        ("2026-10-1114:30Z", FORMS),
        ("xid", FORMS),
        ("time:2026-10-11 14:30Z", FORMS),
    ] {
        refuses(
            text,
            &format!("\"{text}\" is not a recovery target\nhint: {hint}"),
        );
    }
}

#[test]
fn r12_a_time_in_the_future_is_refused_in_utc() {
    refuses(
        "2026-11-21 13:00:01+01:00",
        "target 2026-11-21 12:00:01.000000+00 is in the future, it is now 2026-11-21 12:00:00.000000+00\n\
         hint: use \"latest\" for the newest state that can be restored",
    );
    reads("2026-11-21 13:00:00+01:00", &Target::Time(now()));
    assert!(Target::parse("9999-12-31 23:59:59Z", now()).is_err());
}

#[test]
fn a_date_or_a_time_of_day_that_does_not_exist_is_refused() {
    for date in ["2026-02-29", "2026-13-01", "2026-00-10", "2026-10-32"] {
        refuses(
            &format!("{date} 14:30Z"),
            &format!(
                "\"{date} 14:30Z\" has a date that does not exist\n\
                 hint: write year, month and day, such as 2026-10-11"
            ),
        );
    }
    for time in ["24:00", "14:60", "14:30:61", "99:00"] {
        refuses(
            &format!("2026-10-11 {time}Z"),
            &format!(
                "\"2026-10-11 {time}Z\" has a time of day that does not exist\n\
                 hint: write a time from 00:00:00 to 23:59:59.999999"
            ),
        );
    }
    for time in [
        "",
        "14",
        "1430",
        "14:3",
        "14:30.5",
        "14:30:",
        "14::30",
        ":",
        "14:30:05:06",
    ] {
        refuses(
            &format!("2026-10-11 {time}Z"),
            &format!(
                "\"2026-10-11 {time}Z\" has no time of day\n\
                 hint: write hour and minute, such as 14:30 or 14:30:05.25"
            ),
        );
    }
    refuses(
        "2026-10-11 14:30:05.1234567Z",
        "\"2026-10-11 14:30:05.1234567Z\" is more exact than a microsecond, which PostgreSQL is not\n\
         hint: write at most six digits after the point",
    );
    refuses(
        "2026-10-11 14:30:05.Z",
        "\"2026-10-11 14:30:05.Z\" has no digits after the point\n\
         hint: write them, or leave the point away",
    );
}

#[test]
fn a_number_that_is_no_transaction_is_refused() {
    for text in [
        "xid:",
        "xid:abc",
        "xid:-1",
        "xid: 742",
        "xid:742 lsn:0/1",
        "xid:99999999999999999999",
    ] {
        refuses(
            text,
            &format!(
                "\"{text}\" has no transaction number\n\
                 hint: use the number that the log or pg_current_xact_id() showed, such as xid:742"
            ),
        );
    }
    refuses(
        "xid:2",
        "\"xid:2\" is not a transaction that can commit\n\
         hint: ordinary transactions are numbered from 3 on",
    );
    refuses(
        "xid:4294968038",
        "\"xid:4294968038\" has more than 32 bits, the WAL has only the lower 32 of a transaction's number\n\
         hint: use xid:742",
    );
}

#[test]
fn an_address_or_a_name_that_cannot_be_one_is_refused() {
    refuses(
        "lsn:7000028",
        "\"7000028\" is not an LSN such as 0/7000028\n\
         hint: use an address as pg_current_wal_lsn() shows it, such as lsn:0/7000028",
    );
    let hint = "hint: use the name that was given to pg_create_restore_point(), such as name:before_upgrade";
    refuses("name:", &format!("restore point \"\" is empty\n{hint}"));
    refuses(
        "name:a\tb",
        &format!("restore point \"a\\tb\" has a control character in it\n{hint}"),
    );
    let longest = "ä".repeat(31);
    reads(&format!("name:{longest}"), &Target::Name(longest.clone()));
    refuses(
        &format!("name:{longest}ä"),
        &format!(
            "restore point \"{longest}ä\" has more than 63 bytes, which no restore point has\n{hint}"
        ),
    );
}

#[test]
fn postgresql_is_told_the_target_in_utc() {
    let settings = |text: &str, inclusive: bool| {
        let target = Target::parse(text, now()).unwrap();
        let settings = RecoveryTarget { target, inclusive }.settings();
        settings
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (text, inclusive, expected) in [
        (
            "2026-10-11 14:30:00.123456+02:00",
            true,
            "recovery_target_time=2026-10-11 12:30:00.123456+00 recovery_target_inclusive=true",
        ),
        (
            "2026-10-11 14:30 Europe/Berlin",
            false,
            "recovery_target_time=2026-10-11 12:30:00.000000+00 recovery_target_inclusive=false",
        ),
        (
            "xid:742",
            true,
            "recovery_target_xid=742 recovery_target_inclusive=true",
        ),
        (
            "lsn:0/7000028",
            false,
            "recovery_target_lsn=0/7000028 recovery_target_inclusive=false",
        ),
        ("name:it's", true, "recovery_target_name=it's"),
        ("immediate", true, "recovery_target=immediate"),
        ("latest", true, ""),
    ] {
        assert_eq!(settings(text, inclusive), expected);
    }
}

proptest! {
    #[test]
    fn every_target_is_read_back_as_displayed(microseconds in -2_000_000_000_000_000_i64..1_700_000_000_000_000, xid in 3_u32.., lsn: u64, name in "[!-~]([ -~]{0,60}[!-~])?") {
        for target in [
            Target::Time(Timestamp::from_microsecond(microseconds).unwrap()),
            Target::Xid(u64::from(xid)),
            Target::Lsn(Lsn(lsn)),
            Target::Name(name),
            Target::Latest,
            Target::Immediate,
        ] {
            prop_assert_eq!(Target::parse(&target.to_string(), now()), Ok(target));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_in_one_line(text: String) {
        if let Err(err) = Target::parse(&text, now()) {
            prop_assert_eq!(err.to_string().lines().count(), 1);
            prop_assert_eq!(err.hint().lines().count(), 1);
        }
    }

    #[test]
    fn a_text_that_is_nearly_a_time_is_read_or_refused(text in "20[0-9]{2}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-6][0-9](:[0-6][0-9](\\.[0-9]{0,7})?)?( ?[+-][0-2][0-9](:?[0-6][0-9])?| [A-Z]{3}| Europe/Berlin|Z)?") {
        if let Err(err) = Target::parse(&text, now()) {
            prop_assert_eq!(err.to_string().lines().count(), 1);
        }
    }

    /// Every instant has one local time, and that local time leads back to it or is refused as
    /// ambiguous.
    #[test]
    fn a_local_time_never_means_another_instant(seconds in 0_i64..1_790_000_000, region in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("Asia/Kathmandu")]) {
        let instant = Timestamp::from_second(seconds).unwrap();
        let local = instant.in_tz(region).unwrap().strftime("%Y-%m-%d %H:%M:%S").to_string();
        match Target::parse(&format!("{local} {region}"), now()) {
            Ok(target) => prop_assert_eq!(target, Target::Time(instant)),
            Err(err) => {
                prop_assert!(err.to_string().contains(" showed twice"), "{err}");
                prop_assert!(err.hint().contains(&utc(instant)), "{}", err.hint());
            }
        }
    }
}
