use super::*;
use crate::status::sample;

#[test]
fn an_instance_that_is_well_fits_on_a_screen() {
    let text = text(&sample::healthy(), Ink::Plain);
    assert!(text.lines().count() < 24, "{text}");
    assert_eq!(
        text,
        "\
main  OK, 7 checks found nothing wrong  2026-11-21 18:30:00 UTC

  server            running for 4 days, timeline 2, cluster 7710581305782851992
  can be restored   from  2026-11-08 02:12:00 UTC
                    to    2026-11-21 18:28:46 UTC  last change 74 seconds ago
  base backups      14, newest 16 hours ago (20261121-020000, 45 GiB)
  WAL archive       last file 2 minutes ago, 0 wait; 4127 files, 17 GiB
  last drill        succeeded 2 days ago: 43 GiB in 6 minutes
  objectives        lost with this server's disk: 74 seconds, at most 10 minutes: kept
                    lost with this whole host: 19 minutes, at most 30 minutes: kept
                    time that a restore takes: 6 minutes, at most 60 minutes: kept
  room              data: 212 GiB of 400 GiB free
                    archive: 1630 GiB of 1800 GiB free, full in 190 days

  to go back        backstay restore main --to \"10 minutes ago\"
"
    );
}

#[test]
fn what_is_wrong_comes_first_with_what_to_type() {
    let text = text(&sample::broken(), Ink::Plain);
    assert_eq!(
        text,
        "\
reports  CRITICAL, 2 findings  2026-11-21 18:30:00 UTC

  critical: server: could not connect to the server on \"/run/postgresql\": connection refused
      journalctl --unit postgresql-reports.service says why; systemctl start postgresql-reports.service

  critical: base-backup: there is no good base backup: nothing can be restored
      take one with pg-base-backup
      command 1
      command 2
      command 3
      command 4
      and 2 more, which pg-healthcheck lists

  server            DOES NOT ANSWER
  can be restored   NOTHING that is known
  base backups      NONE that is known
  WAL archive       CANNOT BE READ
  last drill        FAILED 30 hours ago: the archive lacks \"00000001000000000000000A\"; none ever succeeded
  not known         what happened before: permission denied
"
    );
}

#[test]
fn a_gap_is_shown_and_an_objective_that_is_not_kept() {
    let mut status = sample::healthy();
    sample::with_a_gap(&mut status);
    status.objectives[0].measured_seconds = Some(900.0);
    let text = text(&status, Ink::Plain);
    for expected in [
        "a gap of 1 WAL files on timeline 1, from 000000010000002A000000F3 on",
        "lost with this server's disk: 15 minutes, at most 10 minutes: NOT KEPT",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_present_that_cannot_be_restored_is_said_and_no_target_is_offered_that_cannot_be_reached() {
    let mut status = sample::healthy();
    let go_back = |status: &Status| {
        let text = text(status, Ink::Plain);
        let (_, command) = text.rsplit_once("  to go back        ").unwrap();
        command.trim_end().to_owned()
    };
    // The only base backup is a few minutes old.
    let newest = status.windows.pop().unwrap();
    status.windows = vec![crate::status::Window {
        from: status.at - SignedDuration::from_mins(5),
        ..newest
    }];
    assert_eq!(go_back(&status), "backstay restore main --to latest");
    status.windows[0].from = status.at - SignedDuration::from_mins(10);
    assert_eq!(
        go_back(&status),
        "backstay restore main --to \"10 minutes ago\""
    );
    status.windows[0].missing_files = 1;
    status.windows[0].first_missing = Some("0000000200000000000000A1".into());
    status.windows[0].to = Some(status.at - SignedDuration::from_mins(9));
    assert_eq!(go_back(&status), "backstay windows main");
    let text = text(&status, Ink::Plain);
    let end =
        "to    2026-11-21 18:21:00 UTC  9 minutes ago, NOT THE PRESENT: WAL is missing after it\n";
    assert!(text.contains(end), "{text}");
}

#[test]
fn who_has_snapshots_can_do_without_base_backups() {
    let mut status = sample::broken();
    for (name, time) in [
        ("@old", "2026-11-20T00:00:00Z"),
        ("@new", "2026-11-21T00:00:00Z"),
    ] {
        status.snapshots.push(crate::status::Snapshot {
            name: name.into(),
            checkpoint_at: Some(time.parse().unwrap()),
        });
    }
    let text = text(&status, Ink::Plain);
    for expected in [
        "\n  can be restored   from  2026-11-20 00:00:00 UTC, by a snapshot\n",
        "\n  snapshots         2, newest 18 hours ago (@new)\n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn colour_is_for_terminals_and_goes_with_no_color() {
    for (is_terminal, no_color, expected) in [
        (true, None, Ink::Colour),
        (true, Some(""), Ink::Colour),
        (true, Some("1"), Ink::Plain),
        (false, None, Ink::Plain),
    ] {
        assert_eq!(
            Ink::for_output(is_terminal, no_color.map(OsStr::new)),
            expected
        );
    }
    let coloured = text(&sample::broken(), Ink::Colour);
    let mut plain = String::new();
    for part in coloured.split('\x1b') {
        match part.split_once('m') {
            Some((code, rest)) if code.starts_with('[') => plain.push_str(rest),
            _ => plain.push_str(part),
        }
    }
    assert_ne!(coloured, plain);
    assert_eq!(plain, text(&sample::broken(), Ink::Plain));
}
