# Recovery targets: from options to the text that `backstay restore --to` reads, and what is wrong
# with them. The forms are those of crates/restore-plan.
{ lib }:
let
  inherit (builtins) elemAt match stringLength;
  quote = text: "\"${text}\"";

  exampleTime = "\"2026-10-11 14:30 Europe/Berlin\"";

  timeProblem =
    text:
    let
      parts = match "([0-9]{4}-[0-9]{2}-[0-9]{2})[ Tt]([0-9]{2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]{1,6})?)?) *(.*)" text;
      zone = elemAt parts 4;
      isUtc = match "[Zz]|[Uu][Tt][Cc]" zone != null;
      isOffset = match "[+-][0-9]{2}(:?[0-9]{2}(:[0-9]{2})?)?" zone != null;
      isRegion = match "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+" zone != null;
    in
    if lib.hasSuffix " ago" text then
      "is another moment each time it is read; write the moment itself, such as ${exampleTime}"
    else if parts == null then
      "is not a date with a time of day and a zone; write it like ${exampleTime}"
    else if zone == "" then
      "has no time zone, and would be another moment on a server with another one; add one: ${quote "${text} Europe/Berlin"}, ${quote "${text}+02:00"} or ${quote "${text} UTC"}"
    else if !(isUtc || isOffset || isRegion) then
      "has the zone ${quote zone}, and an abbreviation means different things in different places; write the offset (+02:00) or the region (Europe/Berlin) instead"
    else
      null;

  xidProblem =
    text:
    if match "[0-9]{1,10}" text == null then
      "is not the number of a transaction; write the one that the log or pg_current_xact_id() showed, such as \"742\""
    else if lib.toIntBase10 text < 3 || lib.toIntBase10 text > 4294967295 then
      "is not the number of a transaction that can commit; write one from 3 to 4294967295, as the WAL has it"
    else
      null;

  lsnProblem =
    text:
    if match "[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}" text == null then
      "is not an address in the WAL; write one as pg_current_wal_lsn() shows it, such as \"0/7000028\""
    else
      null;

  nameProblem =
    text:
    if text == "" then
      "is empty; write the name that was given to pg_create_restore_point()"
    else if stringLength text > 63 then
      "has more than 63 bytes, which no restore point has; write the name that was given to pg_create_restore_point()"
    else if match "[^[:cntrl:]]*" text == null then
      "has a control character in it; write the name that was given to pg_create_restore_point()"
    else
      null;

  problems = {
    time = timeProblem;
    xid = xidProblem;
    lsn = lsnProblem;
    name = nameProblem;
  };
in
{
  kinds = [
    "time"
    "xid"
    "name"
    "lsn"
  ];

  # Whether stopping just before the target has a meaning: PostgreSQL asks for it with these only.
  mayBeExclusive = lib.flip lib.elem [
    "time"
    "xid"
    "lsn"
  ];

  # What is wrong with the value of a target of this kind, or null.
  problem = kind: value: problems.${kind} value;

  # The target as `backstay restore --to` reads it.
  text =
    kind: value:
    if kind == "latest" || kind == "immediate" then
      kind
    else if kind == "time" then
      value
    else
      "${kind}:${value}";
}
