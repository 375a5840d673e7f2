# How far apart two runs of a timer can be, from its calendar expression.
#
# Answers "is every copy as fresh as it was promised to be" while the configuration evaluates. The
# expression has been checked by the type `calendar` before; what is left is arithmetic.
{ lib }:
let
  inherit (builtins) filter head;

  day = 86400;

  # systemd.time(7): what the short forms stand for.
  shorthands = {
    minutely = "*-*-* *:*:00";
    hourly = "*-*-* *:00:00";
    daily = "*-*-* 00:00:00";
    weekly = "Mon *-*-* 00:00:00";
    monthly = "*-*-01 00:00:00";
    quarterly = "*-01,04,07,10-01 00:00:00";
    semiannually = "*-01,07-01 00:00:00";
    "semi-annually" = shorthands.semiannually;
    biannually = shorthands.semiannually;
    "bi-annually" = shorthands.semiannually;
    annually = "*-01-01 00:00:00";
    yearly = shorthands.annually;
  };

  weekdays = [
    "mon"
    "tue"
    "wed"
    "thu"
    "fri"
    "sat"
    "sun"
  ];
  weekdayNumber =
    text: lib.lists.findFirstIndex (name: lib.hasPrefix name (lib.toLower text)) null weekdays;

  # Of a leap year: every date that exists in some year is in it.
  monthLengths = [
    31
    29
    31
    30
    31
    30
    31
    31
    30
    31
    30
    31
  ];
  daysBefore = month: lib.foldl' builtins.add 0 (lib.take (month - 1) monthLengths);

  # The values that a field allows, in order. Fractions of a second are cut off.
  expand =
    { least, most }:
    text:
    let
      number = digits: lib.toIntBase10 (head (lib.splitString "." digits));
      part =
        item:
        let
          parsed = builtins.match "([0-9.]*[0-9])(\\.\\.([0-9.]*[0-9]))?(/([0-9.]*[0-9]))?" item;
          start = number (builtins.elemAt parsed 0);
          stop = builtins.elemAt parsed 2;
          repeat = builtins.elemAt parsed 4;
          last =
            if stop != null then
              number stop
            else if repeat != null then
              most
            else
              start;
          step = if repeat == null then 1 else lib.max 1 (number repeat);
        in
        filter (value: lib.mod (value - start) step == 0) (lib.range start last);
    in
    if text == "*" then
      lib.range least most
    else
      lib.sort lib.lessThan (lib.unique (lib.concatMap part (lib.splitString "," text)));

  # The widest distance between neighbours of a sorted list whose elements are `unit` seconds apart,
  # where each element stands for the moments `inner.first` to `inner.last` after it.
  level = unit: inner: values: {
    first = head values * unit + inner.first;
    last = lib.last values * unit + inner.last;
    widest = lib.foldl' lib.max inner.widest (
      lib.zipListsWith (earlier: later: (later - earlier) * unit - inner.last + inner.first) values (
        lib.tail values
      )
    );
  };

  # The same once around: from the last moment to the first one of the next turn.
  around = length: moments: lib.max moments.widest (length - moments.last + moments.first);

  timeOfDay =
    text:
    let
      parts = lib.splitString ":" text;
      field = index: range: expand range (builtins.elemAt parts index);
      sixty = {
        least = 0;
        most = 59;
      };
      moment = {
        first = 0;
        last = 0;
        widest = 0;
      };
      seconds = level 1 moment (if lib.length parts == 3 then field 2 sixty else [ 0 ]);
      minutes = level 60 seconds (field 1 sixty);
    in
    level 3600 minutes (
      field 0 {
        least = 0;
        most = 23;
      }
    );

  weekdayNumbers =
    text:
    let
      numbers =
        item:
        let
          range = builtins.match "([A-Za-z]+)(\\.\\.|-)([A-Za-z]+)" item;
        in
        if range == null then
          [ (weekdayNumber item) ]
        else
          lib.range (weekdayNumber (head range)) (weekdayNumber (builtins.elemAt range 2));
    in
    lib.sort lib.lessThan (
      lib.unique (lib.concatMap numbers (filter (item: item != "") (lib.splitString "," text)))
    );

  # The days of a year that a date allows, counted from 0, or null where it names years.
  daysOfYear =
    text:
    let
      parts = builtins.match "(([^~-]+)-)?([^~-]+)([~-])([^~-]+)" text;
      year = builtins.elemAt parts 1;
      months = expand {
        least = 1;
        most = 12;
      } (builtins.elemAt parts 2);
      fromEnd = builtins.elemAt parts 3 == "~";
      days = expand {
        least = 1;
        most = 31;
      } (builtins.elemAt parts 4);
      inMonth =
        month:
        let
          length = builtins.elemAt monthLengths (month - 1);
          inside = filter (number: number <= length) days;
        in
        map (number: daysBefore month + (if fromEnd then length - number else number - 1)) inside;
    in
    if year != null && year != "*" then
      null
    else
      lib.sort lib.lessThan (lib.concatMap inMonth months);
in
# Seconds, or null where the expression names years or both weekdays and dates.
expression:
let
  words = filter (word: word != "") (lib.splitString " " expression);
  expanded = shorthands.${lib.toLower (head words)} or null;
  tokens = if expanded == null then words else lib.splitString " " expanded;
  find = matches: lib.findFirst matches null tokens;
  time = find (word: lib.hasInfix ":" word);
  date = find (word: builtins.match "[0-9*][^:]*[~-][^:]*" word != null);
  weekday = if builtins.match "[A-Za-z].*" (head tokens) != null then head tokens else null;
  moments = timeOfDay (if time == null then "00:00:00" else time);
  days = if date == null then null else daysOfYear date;
  everyDay = date == null || days != null && lib.length days == 366;
in
if lib.hasPrefix "@" expression || date != null && days == null || days == [ ] then
  null
else if weekday != null then
  if everyDay then around (7 * day) (level day moments (weekdayNumbers weekday)) else null
else if everyDay then
  around day moments
else
  around (366 * day) (level day moments days)
