use super::*;
use std::fs::FileTimes;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_published_file_is_complete_and_its_temporary_name_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut temporary = Temporary::create(dir.path(), "a").unwrap();
    temporary.file().write_all(b"content").unwrap();
    let destination = dir.path().join("a");
    assert_eq!(temporary.publish(&destination).unwrap(), Published::Yes);
    assert_eq!(fs::read(&destination).unwrap(), b"content");
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn publishing_never_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let destination = dir.path().join("a");
    fs::write(&destination, "old").unwrap();
    let temporary = Temporary::create(dir.path(), "a").unwrap();
    assert_eq!(
        temporary.publish(&destination).unwrap(),
        Published::NameTaken
    );
    assert_eq!(fs::read(&destination).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn a26_a_link_planted_under_the_final_name_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let destination = dir.path().join("a");
    std::os::unix::fs::symlink(&target, &destination).unwrap();
    let temporary = Temporary::create(dir.path(), "a").unwrap();
    assert_eq!(
        temporary.publish(&destination).unwrap(),
        Published::NameTaken
    );
    assert!(!target.exists());
    assert!(open_regular(&destination).is_err());
}

#[test]
fn a31_leftovers_are_swept_and_live_temporaries_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - Duration::from_hours(1);
    for n in 0..100 {
        let file = File::create(dir.path().join(format!("{TEMPORARY_PREFIX}x.{n}.0"))).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
    }
    fs::write(dir.path().join("foreign"), "").unwrap();
    let mut live = Temporary::create(dir.path(), "live").unwrap();
    live.file()
        .set_times(FileTimes::new().set_modified(old))
        .unwrap();
    let young = dir.path().join(format!("{TEMPORARY_PREFIX}young.1.0"));
    fs::write(&young, "").unwrap();

    assert_eq!(sweep(dir.path(), 40).unwrap(), 40);
    assert_eq!(sweep(dir.path(), 1000).unwrap(), 60);
    assert_eq!(sweep(dir.path(), 1000).unwrap(), 0);
    assert!(live.path.exists() && young.exists());
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn a_file_is_being_written_only_while_its_writer_lives() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{TEMPORARY_PREFIX}a.1.0")), "").unwrap();
    assert!(!is_being_written(dir.path(), "a"));
    let temporary = Temporary::create(dir.path(), "a").unwrap();
    assert!(is_being_written(dir.path(), "a"));
    assert!(!is_being_written(dir.path(), "b"));
    drop(temporary);
    assert!(!is_being_written(dir.path(), "a"));
}

#[test]
fn a_dropped_temporary_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(Temporary::create(dir.path(), "a").unwrap());
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn moving_refuses_a_name_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    assert_eq!(
        move_to_new_name(&from, &to).unwrap_err().to_string(),
        format!("\"{}\" exists already", to.display())
    );
    assert!(from.exists());
    fs::remove_dir(&to).unwrap();
    move_to_new_name(&from, &to).unwrap();
    assert_eq!(names(dir.path()), ["to"]);
}

#[test]
fn a_lock_is_held_by_one_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let first = try_lock(&path).unwrap();
    assert!(first.is_some());
    assert!(try_lock(&path).unwrap().is_none());
    drop(first);
    assert!(try_lock(&path).unwrap().is_some());
}

#[test]
fn a_fifo_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(
        open_regular(&fifo).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}

#[test]
fn another_content_has_another_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    let before = FileIdentity::of(&fs::metadata(&path).unwrap());
    assert_eq!(before, FileIdentity::of(&fs::metadata(&path).unwrap()));
    std::thread::sleep(Duration::from_millis(20));
    fs::write(&path, "two").unwrap();
    assert_ne!(before, FileIdentity::of(&fs::metadata(&path).unwrap()));
}

#[test]
fn what_somebody_put_there_is_found_however_deep_and_beginnings_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    assert_eq!(something_in(&dir.path().join("absent")).unwrap(), None);
    ensure_directory(&deep).unwrap();
    fs::write(dir.path().join(".tmp-manifest.1.0"), "half").unwrap();
    for own in ["lost+found", ".zfs"] {
        fs::create_dir(dir.path().join(own)).unwrap();
        fs::write(dir.path().join(own).join("file"), "").unwrap();
    }
    assert_eq!(something_in(dir.path()).unwrap(), None);
    let link = deep.join("link");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    assert_eq!(something_in(dir.path()).unwrap(), Some(link));
}

#[test]
fn a_directory_that_cannot_be_listed_is_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(something_in(&file).is_err());
}

#[test]
fn a_lock_that_is_shared_with_children_is_held_by_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = try_lock(&path).unwrap().unwrap();
    let is_inherited = |lock: &Lock| {
        let flags = fcntl(&*lock.file, FcntlArg::F_GETFD).unwrap();
        !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    };
    assert!(!is_inherited(&lock));
    lock.share_with_children().unwrap();
    assert!(is_inherited(&lock));
}

/// A way to copy a file that counts what it copies.
type Way = fn(&Path, &Path, &mut u64) -> io::Result<()>;

#[test]
fn a_copy_has_the_content_and_the_mode_and_replaces_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    let content = vec![7; 700_000];
    fs::write(&from, &content).unwrap();
    let ways: [(&str, Way); 2] = [
        ("by-hand", |from, to, sum| {
            copy_file(from, to, 0o600, |bytes| *sum += bytes)
        }),
        ("by-kernel", |from, to, sum| {
            copy_file_of_snapshot(from, to, 0o600, |bytes| *sum += bytes)
        }),
    ];
    for (name, copy) in ways {
        let to = directory.path().join(name);
        let mut sum = 0;
        copy(&from, &to, &mut sum).unwrap();
        assert_eq!(fs::read(&to).unwrap(), content, "{name}");
        assert_eq!(sum, 700_000, "{name}");
        assert_eq!(
            fs::metadata(&to).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let err = copy(&from, &to, &mut sum).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists, "{name}");
    }
}
