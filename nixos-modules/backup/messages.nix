# Words that the messages of several areas share.
{ lib }:
rec {
  quote = text: "\"${text}\"";

  # The full name of an option of an instance.
  option = name: path: "modules.services.postgresql.instances.${name}.${path}";

  # An assertion that fails. What is right becomes no assertion at all.
  refuse = message: {
    assertion = false;
    inherit message;
  };

  inWords =
    items:
    if lib.length items < 2 then
      lib.concatStrings items
    else
      "${lib.concatStringsSep ", " (lib.init items)} and ${lib.last items}";

  # 86400 seconds are "1 day", 5400 are "90 minutes".
  duration =
    seconds:
    let
      unit =
        lib.findFirst (candidate: seconds >= candidate.length && lib.mod seconds candidate.length == 0)
          {
            name = "second";
            length = 1;
          }
          [
            {
              name = "day";
              length = 86400;
            }
            {
              name = "hour";
              length = 3600;
            }
            {
              name = "minute";
              length = 60;
            }
          ];
      count = seconds / unit.length;
    in
    "${toString count} ${unit.name}${lib.optionalString (count != 1) "s"}";

  # What is wrong with a directory that is written into unit files and settings, or null. Units read
  # "%", quotes and spaces in their own way, and PostgreSQL's commands do, too.
  directoryProblem =
    path:
    let
      parts = lib.splitString "/" path;
      isLost = lib.findFirst (place: lib.hasPrefix (place + "/") (path + "/")) null [
        "/tmp"
        "/var/tmp"
        "/run"
        "/dev"
        "/proc"
        "/sys"
      ];
    in
    if !lib.hasPrefix "/" path then
      "is not an absolute path; write the whole path, from \"/\" on"
    else if builtins.match "(/[A-Za-z0-9_.:@+=,-]+)+" path == null then
      "is not a plain path; use letters, digits and the characters _ . : @ + = , - between single slashes, and no slash at the end"
    else if lib.any (part: part == "." || part == "..") parts then
      "has a \".\" or \"..\" in it; write the path without"
    else if isLost != null then
      "is below \"${isLost}\", which does not last; choose a directory that survives a restart and that nothing cleans up"
    else if lib.hasPrefix "${builtins.storeDir}/" path then
      "is in the Nix store, which nothing can write to; choose a directory on the host"
    else
      null;

  # How a directory is in the way of another one, whose use is `what`; null if it is not.
  overlap =
    path: other: what:
    if path == other then
      "${quote path} is ${what} too"
    else if lib.hasPrefix (other + "/") path then
      "${quote path} is inside ${quote other}, ${what}"
    else if lib.hasPrefix (path + "/") other then
      "${quote path} contains ${quote other}, ${what}"
    else
      null;

  # A user and a password in a URL.
  hasPassword = url: builtins.match ".*://[^/@]*:[^/@]+@.*" url != null;
}
