# Helpers of all areas.
{ lib, pkgs, ... }:
let
  blib = import ../../../nixos-modules/lib.nix { inherit lib pkgs; };
  expressions = import ../calendar-expressions.nix;

  # The value that an option of `type` has after `value` was written to it.
  merged =
    type: value:
    (lib.evalModules {
      modules = [
        { options.it = lib.mkOption { inherit type; }; }
        { it = value; }
      ];
    }).config.it;
  isTaken = type: value: (builtins.tryEval (builtins.deepSeq (merged type value) true)).success;
in
{
  # Sizes.

  "test sizes count in powers of 1024" = {
    expr = map blib.sizeBytes [
      "1kB"
      "512kB"
      "64MB"
      "2GB"
      "3TB"
    ];
    expected = [
      1024
      524288
      67108864
      2147483648
      3298534883328
    ];
  };

  "test a size with a space, another unit or no unit is refused" = {
    expr = map (isTaken blib.types.size) [
      "2GB"
      "2 GB"
      "2gb"
      "2G"
      "2048"
      "0GB"
      "02GB"
      "2.5GB"
      "-1MB"
      "12345678901234GB"
      ""
      " 2GB"
    ];
    expected = [ true ] ++ lib.genList (_: false) 11;
  };

  "test a refused size says how to write it" = {
    expr = blib.sizeProblem "2 GB";
    expected = "\"2 GB\" is not a size; write a whole number and its unit without a space, in kB, MB, GB or TB, as in \"2GB\"";
  };

  "test a size is shown in the largest unit that divides it" = {
    expr = map blib.showSize [
      1024
      (1536 * 1024)
      (64 * 1024 * 1024)
      (2 * 1024 * 1024 * 1024)
      (2 * 1024 * 1024 * 1024 + 1)
    ];
    expected = [
      "1kB"
      "1536kB"
      "64MB"
      "2GB"
      "2GB"
    ];
  };

  # Calendar expressions.

  "test every calendar expression that systemd takes is taken" = {
    expr = lib.filter (text: blib.calendarProblem text != null) expressions.accepted;
    expected = [ ];
  };

  "test every calendar expression that systemd refuses is refused or made into one that it takes" = {
    expr = lib.filter (text: blib.calendarProblem text == null) expressions.refused;
    expected = [
      "*/5"
      "*/15"
    ];
  };

  "test the table of calendar expressions has at least 40 of each" = {
    expr = lib.all (list: lib.length (lib.unique list) >= 40) (lib.attrValues expressions);
    expected = true;
  };

  "test every five minutes is what the guide means by */5" = {
    expr = map (merged blib.types.calendar) [
      "*/5"
      "*/15"
      "daily"
      "02:00"
      "*:0/5"
    ];
    expected = [
      "*:0/5"
      "*:0/15"
      "daily"
      "02:00"
      "*:0/5"
    ];
  };

  "test a refused calendar expression says what is wrong with it" = {
    expr = map blib.calendarProblem [
      "24:00"
      "*/90"
      "Fri..Mon 02:00"
      "nightly"
      "*:*/5"
      "5min"
      "*-*-32"
    ];
    expected =
      map
        (
          problem:
          "${problem}; use for example \"daily\", \"02:00\", \"Mon *-*-* 04:00:00\" or \"*/5\" for every 5 minutes"
        )
        [
          "\"24:00\" is not a systemd calendar expression: the hour 24 is not 0 to 23"
          "\"*/90\" is not a systemd calendar expression: the minute \"0/90\" repeats too far apart to happen twice"
          "\"Fri..Mon 02:00\" is not a systemd calendar expression: the weekday range \"Fri..Mon\" runs backwards: a week begins on Monday"
          "\"nightly\" is not a systemd calendar expression: \"nightly\" is no weekday"
          "\"*:*/5\" is not a systemd calendar expression: \"*/5\" is no minute: systemd has no \"*/\"; write \"0/5\""
          "\"5min\" is not a systemd calendar expression: \"5min\" is no date; write year-month-day, as in \"*-*-01\""
          "\"*-*-32\" is not a systemd calendar expression: the day 32 is not 1 to 31"
        ];
  };

  "test the type refuses what the grammar refuses" = {
    expr = map (isTaken blib.types.calendar) [
      "24:00"
      "nightly"
      5
    ];
    expected = [
      false
      false
      false
    ];
  };

  # Secrets.

  "test a secret is a path outside the store" = {
    expr = map (isTaken blib.types.externalPath) [
      "/run/secrets/password"
      "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-password"
      "/nix/store"
      ./lib.nix
      "${./lib.nix}"
      "run/secrets/password"
      "hunter2"
      ""
      "/run/secrets/a\nb"
    ];
    expected = [ true ] ++ lib.genList (_: false) 8;
  };

  "test a refused secret says why and where it belongs" = {
    expr = map blib.externalPathProblem [
      "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-password"
      /etc/password
      "hunter2"
    ];
    expected = [
      "\"/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-password\" is in the Nix store, where every user can read it; give a file that is put on the host apart from the store, such as \"/run/secrets/name\""
      "/etc/password is a path literal, which Nix copies to the store, where every user can read it; write the path of a file on the host as a string, such as \"/run/secrets/name\""
      "\"hunter2\" is not an absolute path; give the path of a file on the host, such as \"/run/secrets/name\""
    ];
  };

  # Command lines and files.

  "test a command line keeps what a user wrote as it is" = {
    expr = blib.execStart [
      "/usr/bin/program"
      "--config"
      "/etc/backstay/main.json"
      "two words"
      "100%"
      "$HOME"
      "a\"b\\c"
      ""
      "é"
      ";"
    ];
    expected = ''/usr/bin/program --config /etc/backstay/main.json "two words" "100%%" "$$HOME" "a\"b\\c" "" "é" ";"'';
  };

  "test a program is found in its package" = {
    expr = blib.program "pg-init";
    expected = "/usr/lib/backstay/bin/pg-init";
  };

  "test settings are readable JSON without the keys that are null" = {
    expr = blib.prettyJson {
      b = [
        1
        {
          c = null;
          d = "\"quoted\"";
        }
      ];
      a = null;
      e = { };
      f = [ ];
      g = 1.5;
      h.i = true;
    };
    expected = ''
      {
        "b": [
          1,
          {
            "d": "\"quoted\""
          }
        ],
        "e": {},
        "f": [],
        "g": 1.5,
        "h": {
          "i": true
        }
      }
    '';
  };

  "test readable JSON says the same as Nix's own" = {
    expr =
      let
        value = {
          text = "line\nbreak \\ \" é";
          list = [
            true
            false
            null
            { }
            [ [ ] ]
          ];
          deep.er.est = 1;
        };
      in
      builtins.fromJSON (blib.prettyJson value) == value;
    expected = true;
  };

  "test the settings of an instance are checked while they are built" = {
    expr =
      let
        file = blib.settingsFile "main" "backstay" { instance = "main"; };
      in
      {
        inherit (file) name text checkPhase;
      };
    expected = {
      name = "main.json";
      text = ''
        {
          "instance": "main"
        }
      '';
      checkPhase = "/usr/lib/backstay/bin/backstay check-config \"$out\"";
    };
  };

  "test another program checks its own settings" = {
    expr = (blib.settingsFile "datasets" "pg-datasets" { }).checkPhase;
    expected = "/usr/lib/backstay/bin/pg-datasets --config \"$out\" --check-config";
  };

  # Hardening.

  "test no preset removes the shared memory of the server" = {
    expr = lib.filter (preset: preset ? RemoveIPC) (lib.attrValues blib.hardening);
    expected = [ ];
  };

  "test the preset for datasets gives no mount namespace" = {
    expr = lib.intersectLists (lib.attrNames (lib.filterAttrs (_: value: value != false) blib.hardening.datasets)) [
      "PrivateMounts"
      "BindPaths"
      "BindReadOnlyPaths"
      "InaccessiblePaths"
      "PrivateDevices"
      "PrivateIPC"
      "PrivateTmp"
      "ProcSubset"
      "ProtectControlGroups"
      "ProtectHome"
      "ProtectKernelLogs"
      "ProtectKernelModules"
      "ProtectKernelTunables"
      "ProtectProc"
      "ProtectSystem"
      "ReadOnlyPaths"
      "ReadWritePaths"
      "TemporaryFileSystem"
    ];
    expected = [ ];
  };

  "test the server can tell its clients apart and reach other servers" = {
    expr = lib.intersectLists (lib.attrNames blib.hardening.server) [
      "PrivateUsers"
      "PrivateNetwork"
      "IPAddressDeny"
    ];
    expected = [ ];
  };
}
