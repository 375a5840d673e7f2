# systemd's calendar expressions, checked while the configuration evaluates.
#
# systemd reads OnCalendar= when it loads the timer. A line that it cannot read is skipped with a
# warning, and a timer that is left without any elapses never: backups would stop without an error.
# So the grammar of systemd.time(7), "Calendar Events", is checked here, with the ranges that
# systemd itself checks afterwards.
{ lib }:
let
  inherit (builtins)
    elemAt
    filter
    head
    length
    match
    stringLength
    ;

  weekdays = {
    monday = 0;
    mon = 0;
    tuesday = 1;
    tue = 1;
    wednesday = 2;
    wed = 2;
    thursday = 3;
    thu = 3;
    friday = 4;
    fri = 4;
    saturday = 5;
    sat = 5;
    sunday = 6;
    sun = 6;
  };

  shorthands = [
    "minutely"
    "hourly"
    "daily"
    "weekly"
    "monthly"
    "quarterly"
    "semiannually"
    "semi-annually"
    "biannually"
    "bi-annually"
    "annually"
    "yearly"
  ];

  # systemd looks a zone up below /usr/share/zoneinfo. The directory of the machine that will run
  # the timer cannot be asked here, so the first part of the name is compared with the areas of the
  # database, and names without an area with the ones that it has.
  zoneAreas = [
    "Africa"
    "America"
    "Antarctica"
    "Arctic"
    "Asia"
    "Atlantic"
    "Australia"
    "Brazil"
    "Canada"
    "Chile"
    "Etc"
    "Europe"
    "Indian"
    "Mexico"
    "Pacific"
    "US"
  ];
  zonesWithoutArea = [
    "CET"
    "CST6CDT"
    "Cuba"
    "EET"
    "EST"
    "EST5EDT"
    "Egypt"
    "Eire"
    "GB"
    "GMT"
    "Hongkong"
    "Iceland"
    "Iran"
    "Israel"
    "Jamaica"
    "Japan"
    "Kwajalein"
    "Libya"
    "MET"
    "MST7MDT"
    "NZ"
    "Navajo"
    "PRC"
    "PST8PDT"
    "Poland"
    "Portugal"
    "ROC"
    "ROK"
    "Singapore"
    "Turkey"
    "UCT"
    "UTC"
    "Universal"
    "WET"
    "Zulu"
  ];

  isZone =
    word:
    let
      inArea = match "([A-Z][A-Za-z]*)/[A-Za-z][A-Za-z0-9_+/-]*[A-Za-z0-9]" word;
    in
    lib.toUpper word == "UTC"
    || builtins.elem word zonesWithoutArea
    || inArea != null && builtins.elem (head inArea) zoneAreas && !lib.hasInfix "//" word;

  # Numbers longer than this are above every limit, and past Nix's integers soon after.
  toNumber = digits: if stringLength digits > 9 then 999999999 else lib.toIntBase10 digits;

  # Seconds may have a fraction; they are compared in microseconds, as systemd does.
  toMicroseconds =
    text:
    let
      parts = match "([0-9]+)(\\.([0-9]+))?" text;
      fraction = elemAt parts 2;
      padded = builtins.substring 0 6 ((if fraction == null then "" else fraction) + "000000");
    in
    if stringLength (head parts) > 9 then
      999999999999999
    else
      lib.toIntBase10 (head parts) * 1000000 + lib.toIntBase10 padded;

  # A year of two digits is one of 1970 to 2069.
  toYear =
    digits:
    let
      year = toNumber digits;
    in
    if year < 70 then
      year + 2000
    else if year < 100 then
      year + 1900
    else
      year;

  # A field of a date or a time: "*", or numbers, ranges and repetitions separated by commas.
  fields = {
    year = {
      name = "year";
      least = 1970;
      most = 2199;
      read = toYear;
    };
    month = {
      name = "month";
      least = 1;
      most = 12;
      read = toNumber;
    };
    day = {
      name = "day";
      least = 1;
      most = 31;
      read = toNumber;
    };
    # Days counted from the end exist in every month up to 28.
    dayBeforeMonthEnd = fields.day // {
      most = 28;
      countsBackwards = true;
    };
    hour = {
      name = "hour";
      least = 0;
      most = 23;
      read = toNumber;
    };
    minute = {
      name = "minute";
      least = 0;
      most = 59;
      read = toNumber;
    };
    second = {
      name = "second";
      least = 0;
      most = 59999999;
      shownMost = "59";
      read = toMicroseconds;
      fraction = true;
    };
  };

  fieldProblem =
    field: text:
    let
      parts = lib.splitString "," text;
    in
    if text == "*" then
      null
    else if match "\\*/.*" text != null then
      "\"${text}\" is no ${field.name}: systemd has no \"*/\"; write \"${toString field.least}${lib.removePrefix "*" text}\""
    else if field.countsBackwards or false && length parts > 1 then
      # systemd (252 and 262) lowers the limit by 3 for each further element, in the order of their values.
      firstProblem (
        lib.imap0 (index: partProblem (field // { most = field.most - 3 * index; })) (
          lib.naturalSort (lib.unique parts)
        )
      )
    else
      firstProblem (map (partProblem field) parts);

  partProblem =
    field: text:
    let
      number = "[0-9]+(\\.[0-9]+)?";
      parsed = match "(${number})(\\.\\.(${number}))?(/(${number}))?" text;
      start = field.read (elemAt parsed 0);
      stopText = elemAt parsed 3;
      # The last value of the range that a repetition reaches.
      stop =
        let
          written = field.read stopText;
        in
        if repeatText == null || repeat == 0 || written < start then
          written
        else
          written - lib.mod (written - start) repeat;
      repeatText = elemAt parsed 6;
      # A year's repetition is a number of years, not a year.
      repeat = (if field.name == "year" then toNumber else field.read) repeatText;
      inRange = value: value >= field.least && value <= field.most;
      range = "${toString field.least} to ${field.shownMost or (toString field.most)}";
      hasFraction = builtins.any (index: elemAt parsed index != null) [
        1
        4
        7
      ];
    in
    if parsed == null || hasFraction && !(field.fraction or false) then
      "\"${text}\" is no ${field.name}"
    else if !inRange start then
      "the ${field.name} ${elemAt parsed 0} is not ${range}"
    else if stopText != null && !inRange stop then
      "the ${field.name} ${stopText} is not ${range}"
    else if stopText != null && stop < start then
      "the ${field.name} range \"${elemAt parsed 0}..${stopText}\" runs backwards"
    else if field.fraction or false && stopText != null && repeatText == null && stop - start < 1000000 then
      "the ${field.name} range \"${text}\" is shorter than a second"
    else if repeatText != null && repeat == 0 then
      "the ${field.name} \"${text}\" repeats every 0"
    else if
      repeatText != null
      && stopText == null
      && (
        if field.countsBackwards or false then
          start - repeat < field.least
        else
          start + repeat > field.most
      )
    then
      "the ${field.name} \"${text}\" repeats too far apart to happen twice"
    else
      null;

  firstProblem =
    problems:
    let
      found = filter (problem: problem != null) problems;
    in
    if found == [ ] then null else head found;

  weekdaysProblem =
    text:
    let
      # A comma at the end is allowed, one at the start is not.
      items = lib.splitString "," (lib.removeSuffix "," text);
    in
    firstProblem (map weekdayProblem items);

  weekdayProblem =
    text:
    let
      range = match "([a-z]+)(\\.\\.|-)([a-z]+)" (lib.toLower text);
      isDay = day: weekdays ? ${day};
      start = head range;
      stop = elemAt range 2;
    in
    if isDay (lib.toLower text) then
      null
    else if range == null || !isDay start || !isDay stop then
      "\"${text}\" is no weekday"
    else if weekdays.${start} > weekdays.${stop} then
      "the weekday range \"${text}\" runs backwards: a week begins on Monday"
    else
      null;

  dateProblem =
    text:
    let
      full = match "([^~-]*)-([^~-]*)([~-])([^~-]*)" text;
      withoutYear = match "([^~-]*)([~-])([^~-]*)" text;
      day = separator: if separator == "~" then fields.dayBeforeMonthEnd else fields.day;
    in
    if full != null then
      firstProblem [
        (fieldProblem fields.year (elemAt full 0))
        (fieldProblem fields.month (elemAt full 1))
        (fieldProblem (day (elemAt full 2)) (elemAt full 3))
      ]
    else if withoutYear != null then
      firstProblem [
        (fieldProblem fields.month (elemAt withoutYear 0))
        (fieldProblem (day (elemAt withoutYear 1)) (elemAt withoutYear 2))
      ]
    else
      "\"${text}\" is no date; write year-month-day, as in \"*-*-01\"";

  timeProblem =
    text:
    let
      parts = lib.splitString ":" text;
    in
    if text == "" then
      null
    else if length parts < 2 || length parts > 3 then
      "\"${text}\" is no time of day; write hour:minute, as in \"02:00\""
    else
      firstProblem (
        [
          (fieldProblem fields.hour (elemAt parts 0))
          (fieldProblem fields.minute (elemAt parts 1))
        ]
        ++ lib.optional (length parts == 3) (fieldProblem fields.second (elemAt parts 2))
      );

  # A date and a time, of which either may be left out.
  momentProblem =
    text:
    let
      parts = match "([^ ]+)( +(.*))?" text;
      first = head parts;
      rest = elemAt parts 2;
    in
    if text == "" || match "@[0-9]{1,12}" text != null then
      null
    else if parts == null then
      "\"${text}\" begins with a space"
    else if rest == null && lib.hasInfix ":" first then
      timeProblem first
    else
      firstProblem [
        (dateProblem first)
        (timeProblem (if rest == null then "" else rest))
      ];

  withoutZone =
    text:
    let
      parts = match "(.*[^ ]) ([^ ]+)" text;
    in
    if parts != null && isZone (elemAt parts 1) then head parts else text;
in
rec {
  # What is wrong with a calendar expression, or null if systemd takes it.
  problem =
    text:
    let
      moment = withoutZone text;
      words = match "([A-Za-z][^ ]*)( +(.*))?" moment;
      rest = elemAt words 2;
    in
    if match "[[:print:]]*" text == null then
      "it has a character that is not printable ASCII"
    else if text == "" then
      "it is empty"
    else if builtins.elem (lib.toLower moment) shorthands then
      null
    else if words != null then
      firstProblem [
        (weekdaysProblem (head words))
        (momentProblem (if rest == null then "" else rest))
      ]
    else
      momentProblem moment;

  # The expression that systemd understands for what people write. "*/5" is what the guide and
  # crontab call every five minutes; systemd refuses it.
  normalize =
    text:
    let
      everyMinutes = match "\\*/([1-9][0-9]?)" text;
    in
    if everyMinutes != null then "*:0/${head everyMinutes}" else text;
}
