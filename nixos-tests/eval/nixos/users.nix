{ lib, config, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.users;

  user =
    { name, config, ... }:
    {
      options = {
        name = mkOption {
          type = types.passwdEntry types.str;
          default = name;
        };
        description = mkOption {
          type = types.passwdEntry types.str;
          default = "";
        };
        uid = mkOption {
          type = types.nullOr types.int;
          default = null;
        };
        isSystemUser = mkOption {
          type = types.bool;
          default = false;
        };
        isNormalUser = mkOption {
          type = types.bool;
          default = false;
        };
        group = mkOption {
          type = types.str;
          default = "";
        };
        extraGroups = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        home = mkOption {
          type = types.passwdEntry types.path;
          default = "/var/empty";
        };
        homeMode = mkOption {
          type = types.strMatching "[0-7]{1,5}";
          default = "700";
        };
        createHome = mkOption {
          type = types.bool;
          default = false;
        };
        useDefaultShell = mkOption {
          type = types.bool;
          default = false;
        };
        shell = mkOption {
          type = types.nullOr (types.either types.package (types.passwdEntry types.path));
          default = "/usr/sbin/nologin";
        };
        openssh.authorizedKeys.keys = mkOption {
          type = types.listOf types.singleLineStr;
          default = [ ];
        };
      };
    };

  group =
    { name, ... }:
    {
      options = {
        name = mkOption {
          type = types.passwdEntry types.str;
          default = name;
        };
        gid = mkOption {
          type = types.nullOr types.int;
          default = null;
        };
        members = mkOption {
          type = types.listOf (types.passwdEntry types.str);
          default = [ ];
        };
      };
    };

  users = lib.attrValues cfg.users;
  groups = lib.attrValues cfg.groups;
  number = value: if value == null then "-" else toString value;

  # The users and groups as systemd-sysusers reads them, so that another system can be given the same ones.
  sysusers =
    map (group: "g ${group.name} ${number group.gid}") groups
    ++ map (
      user:
      "u ${user.name} ${number user.uid}:${user.group} ${builtins.toJSON user.description} ${user.home} ${
        if user.useDefaultShell then "/bin/bash" else "${user.shell}"
      }"
    ) users
    ++ lib.concatMap (user: map (group: "m ${user.name} ${group}") user.extraGroups) users
    ++ lib.concatMap (group: map (member: "m ${member} ${group.name}") group.members) groups;

  homes = lib.filter (user: user.createHome) users;
  withKeys = lib.filter (user: user.openssh.authorizedKeys.keys != [ ]) users;
in
{
  options.users = {
    users = mkOption {
      type = types.attrsOf (types.submodule user);
      default = { };
    };
    groups = mkOption {
      type = types.attrsOf (types.submodule group);
      default = { };
    };
  };

  config = {
    environment.etc =
      lib.optionalAttrs (sysusers != [ ]) {
        "sysusers.d/nixos.conf".text = lib.concatLines sysusers;
      }
      // lib.optionalAttrs (homes != [ ]) {
        "tmpfiles.d/nixos-homes.conf".text = lib.concatLines (
          map (user: "d ${user.home} ${user.homeMode} ${user.name} ${user.group}") homes
        );
      }
      // lib.listToAttrs (
        map (
          user:
          lib.nameValuePair "ssh/authorized_keys.d/${user.name}" {
            text = lib.concatLines user.openssh.authorizedKeys.keys;
          }
        ) withKeys
      );

    assertions = lib.concatMap (user: [
      {
        assertion = user.isSystemUser != user.isNormalUser;
        message = "Exactly one of users.users.${user.name}.isSystemUser and users.users.${user.name}.isNormalUser must be set.";
      }
      {
        assertion = user.group != "";
        message = "users.users.${user.name}.group is unset.";
      }
    ]) users;
  };
}
