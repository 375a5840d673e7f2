# Helpers of all areas. Imported as `blib = import ../lib.nix { inherit lib pkgs; }`.
{ lib, pkgs }:
let
  calendarGrammar = import ./calendar.nix { inherit lib; };

  # A type that says what is wrong with a value in its own words: option, value, way out. The
  # message of a failed `check` would only repeat the description of the type.
  stringType =
    {
      name,
      description,
      problem,
      normalize ? (value: value),
      check ? builtins.isString,
    }:
    lib.mkOptionType {
      inherit name description check;
      descriptionClass = "noun";
      merge =
        loc: defs:
        let
          value = lib.mergeEqualOption loc defs;
          found = problem value;
        in
        if found == null then
          normalize value
        else
          throw "${lib.showOption loc}: ${found}";
    };

  sizeUnits = {
    kB = 1024;
    MB = 1024 * 1024;
    GB = 1024 * 1024 * 1024;
    TB = 1024 * 1024 * 1024 * 1024;
  };
  sizeParts = builtins.match "([1-9][0-9]{0,8})(kB|MB|GB|TB)";
in
rec {
  # The instances that are to exist, of `config.modules.services.postgresql.instances`.
  enabled = lib.filterAttrs (_: instance: instance.enable);

  # What is wrong with a size in PostgreSQL's units, or null. PostgreSQL itself also takes "2 GB"
  # and a bare number of its own unit; one spelling keeps comparisons and sums honest.
  sizeProblem =
    text:
    if sizeParts text != null then
      null
    else
      "\"${text}\" is not a size; write a whole number and its unit without a space, in kB, MB, GB or TB, as in \"2GB\"";

  # Bytes of a size: sizeBytes "2GB" is 2147483648. PostgreSQL's units are powers of 1024.
  sizeBytes =
    text:
    let
      parts = sizeParts text;
    in
    if parts == null then
      throw (sizeProblem text)
    else
      lib.toIntBase10 (builtins.elemAt parts 0) * sizeUnits.${builtins.elemAt parts 1};

  # A size for postgresql.conf, rounded down to whole kilobytes and written in the largest unit that
  # divides it.
  showSize =
    bytes:
    let
      kilobytes = bytes / 1024;
      unit = lib.findFirst (candidate: lib.mod kilobytes candidate.kilobytes == 0) null [
        {
          name = "GB";
          kilobytes = 1024 * 1024;
        }
        {
          name = "MB";
          kilobytes = 1024;
        }
        {
          name = "kB";
          kilobytes = 1;
        }
      ];
    in
    "${toString (kilobytes / unit.kilobytes)}${unit.name}";

  # The calendar expression that systemd reads for what a user wrote: "*/5" becomes "*:0/5".
  calendar = calendarGrammar.normalize;

  # What is wrong with a calendar expression, after `calendar`, or null.
  calendarProblem =
    text:
    let
      found = calendarGrammar.problem (calendar text);
    in
    if found == null then
      null
    else
      "\"${text}\" is not a systemd calendar expression: ${found}; use for example \"daily\", \"02:00\", \"Mon *-*-* 04:00:00\" or \"*/5\" for every 5 minutes";

  # What is wrong with the place of a secret, or null. Everything below /nix/store can be read by
  # every user of the machine, and travels to every binary cache that the system is copied to.
  externalPathProblem =
    value:
    let
      # The context is what would copy the file to the store; the message needs the letters only.
      text = builtins.unsafeDiscardStringContext (toString value);
    in
    if builtins.isPath value then
      "${text} is a path literal, which Nix copies to the store, where every user can read it; write the path of a file on the host as a string, such as \"/run/secrets/name\""
    else if lib.hasPrefix builtins.storeDir text || builtins.hasContext value then
      "\"${text}\" is in the Nix store, where every user can read it; give a file that is put on the host apart from the store, such as \"/run/secrets/name\""
    else if !lib.hasPrefix "/" text then
      "\"${text}\" is not an absolute path; give the path of a file on the host, such as \"/run/secrets/name\""
    else if builtins.match "[^[:cntrl:]]*" text == null then
      "the path has a control character; give a path that systemd can read from a unit file"
    else
      null;

  types = {
    # A size in PostgreSQL's units.
    size = stringType {
      name = "size";
      description = "size in PostgreSQL's units, such as \"2GB\" or \"512kB\"";
      problem = sizeProblem;
    };

    # When a timer elapses. The value is what systemd reads, so `"*/5"` arrives as `"*:0/5"`.
    calendar = stringType {
      name = "calendar";
      description = "systemd calendar expression, such as \"daily\", \"02:00\" or \"*/5\" for every 5 minutes";
      problem = calendarProblem;
      normalize = calendar;
    };

    # The path of a secret.
    externalPath = stringType {
      name = "externalPath";
      description = "absolute path of a file outside the Nix store, as a string";
      problem = externalPathProblem;
      # A path literal is let through to the message that explains what is wrong with it.
      check = value: builtins.isString value || builtins.isPath value;
    };
  };

  # JSON that a person can read, since it is what stands in /etc. Null values are left out: a key
  # that is absent means the program's own default.
  prettyJson =
    let
      show =
        indent: value:
        let
          deeper = indent + "  ";
          wrap =
            open: close: items:
            "${open}\n${deeper}${lib.concatStringsSep ",\n${deeper}" items}\n${indent}${close}";
          kept = lib.filterAttrs (_: item: item != null) value;
        in
        if builtins.isAttrs value && !lib.isDerivation value then
          if kept == { } then
            "{}"
          else
            wrap "{" "}" (lib.mapAttrsToList (key: item: "${builtins.toJSON key}: ${show deeper item}") kept)
        else if builtins.isList value && value != [ ] then
          wrap "[" "]" (map (show deeper) value)
        else
          builtins.toJSON value;
    in
    value: show "" value + "\n";

  # A settings file in the store, read by `program` while the system builds, so that a value it
  # refuses never reaches a running host. `backstay` checks the settings of an instance; another
  # program checks its own.
  settingsFile =
    name: programName: settings:
    pkgs.writeTextFile {
      name = "${name}.json";
      text = prettyJson settings;
      # Left out where the machine that builds cannot run the programs of the host.
      checkPhase = lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
        if programName == "backstay" then
          "${program "backstay"} check-config \"$out\""
        else
          "${program programName} --config \"$out\" --check-config"
      );
    };

  # The path of one of our programs.
  program = name: "${pkgs.backstay.${name}}/bin/${name}";

  # One line for ExecStart=, ExecStartPre= and the like. systemd splits at spaces, reads C escapes in
  # double quotes, expands %x everywhere and $x in arguments; none of that may happen to what a user
  # wrote. (systemd.service(5), "Command lines"; systemd.syntax(7), "Quoting".)
  execStart =
    arguments:
    lib.concatMapStringsSep " " (
      argument:
      let
        text = toString argument;
        escaped =
          builtins.replaceStrings
            [
              "\\"
              "\""
              "\n"
              "\t"
              "\r"
              "%"
              "$"
            ]
            [
              "\\\\"
              "\\\""
              "\\n"
              "\\t"
              "\\r"
              "%%"
              "$$"
            ]
            text;
      in
      # A word of these characters means the same with and without quotes.
      if builtins.match "[A-Za-z0-9_/.,:=@+-]+" text != null then text else "\"${escaped}\""
    ) arguments;

  # Presets for serviceConfig. A unit takes one with `//` on the flat set, or better as one element of
  # lib.mkMerge, and comments each relaxation. None sets RemoveIPC=: when a unit with it stops,
  # systemd removes every shared memory segment of its user, and the server's are the same user's.
  hardening =
    let
      # Holds for a process of any user that changes neither the kernel nor other processes.
      common = {
        NoNewPrivileges = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        RestrictNamespaces = true;
        SystemCallArchitectures = "native";
        # A call outside the filter fails instead of killing the process: a server that is killed
        # by SIGSYS takes every connection with it (nixpkgs issue 385603).
        SystemCallErrorNumber = "EPERM";
        ProtectClock = true;
        ProtectHostname = true;
        KeyringMode = "private";
        UMask = "0077";
        # A memory image holds passwords and data, and is kept where more people can read it.
        LimitCORE = 0;
      };
      # These give the unit a mount namespace of its own.
      confined = common // {
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        DevicePolicy = "closed";
        PrivateMounts = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        ProtectProc = "invisible";
        ProcSubset = "pid";
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      };
    in
    {
      # The PostgreSQL server. Two things that the helpers have are left out. With PrivateUsers= every
      # client of the socket that is neither root nor the server's own user looks like nobody, and
      # peer authentication fails. With IPAddressDeny= a subscription, a standby or a foreign table
      # would not reach its other side.
      server = confined // {
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          # Lists the interfaces for "samehost" and "samenet" in pg_hba.conf.
          "AF_NETLINK"
        ];
      };

      # A program that works on files and talks to the server over its socket. The socket is a path,
      # so it is reachable although the unit has no network.
      helper = confined // {
        PrivateNetwork = true;
        PrivateUsers = true;
        IPAddressDeny = "any";
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };

      # A helper that reaches a repository or another host.
      network = confined // {
        PrivateUsers = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
        ];
      };

      # A program that creates and mounts datasets. A mount that is made in a mount namespace of the
      # unit stays there, and the host never sees it; so everything that would give the unit such a
      # namespace (ProtectSystem=, PrivateTmp=, PrivateDevices=, ReadWritePaths= …) is left out, and
      # what remains is done by capabilities, system calls and the device list.
      datasets = common // {
        User = "root";
        DevicePolicy = "closed";
        DeviceAllow = [ "/dev/zfs rw" ];
        # CAP_SYS_ADMIN is what /dev/zfs and mount(2) ask for. The others change the owner and mode of
        # a directory that belongs to somebody else, and look into it.
        CapabilityBoundingSet = [
          "CAP_SYS_ADMIN"
          "CAP_CHOWN"
          "CAP_FOWNER"
          "CAP_DAC_OVERRIDE"
        ];
        AmbientCapabilities = "";
        # For itself the isolation of the network would bring a mount namespace along, from systemd
        # 254 on.
        PrivateMounts = false;
        PrivateNetwork = true;
        IPAddressDeny = "any";
        RestrictAddressFamilies = [ "AF_UNIX" ];
        SystemCallFilter = [
          "@system-service @mount"
          "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @resources @swap"
        ];
      };
    };
}
