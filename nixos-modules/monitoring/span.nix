# Seconds of a systemd time span: "1h 30min" is 5400. Parts of a second count as a whole one.
{ lib }:
let
  milliseconds = {
    ms = 1;
    msec = 1;
    s = 1000;
    sec = 1000;
    second = 1000;
    seconds = 1000;
    # A bare number is seconds.
    "" = 1000;
    m = 60 * 1000;
    min = 60 * 1000;
    minute = 60 * 1000;
    minutes = 60 * 1000;
    h = 3600 * 1000;
    hr = 3600 * 1000;
    hour = 3600 * 1000;
    hours = 3600 * 1000;
    d = 86400 * 1000;
    day = 86400 * 1000;
    days = 86400 * 1000;
    w = 604800 * 1000;
    week = 604800 * 1000;
    weeks = 604800 * 1000;
  };
  partOf = part: lib.toIntBase10 (lib.head part) * milliseconds.${lib.elemAt part 1};
in
text:
let
  parts = lib.filter lib.isList (builtins.split "([0-9]+) ?([a-z]*)" text);
  total = lib.foldl' (sum: part: sum + partOf part) 0 parts;
in
(total + 999) / 1000
