# pg_hba.conf and pg_ident.conf.
{ lib }:
rec {
  # A field as the file writes it. Keywords such as `all` and `+group` lose their meaning in quotes.
  field = text: if builtins.match "[A-Za-z0-9_.:/+*-]+" text != null then text else "\"${text}\"";

  line =
    entry:
    if builtins.isString entry then
      lib.removeSuffix "\n" entry
    else
      lib.concatStringsSep " " (
        [
          entry.type
          (lib.concatMapStringsSep "," field entry.databases)
          (lib.concatMapStringsSep "," field entry.users)
        ]
        ++ lib.optional (entry.address != null) (field entry.address)
        ++ [ entry.method ]
        ++ lib.mapAttrsToList (key: value: "${key}=${field value}") entry.options
      );

  # A line for each role in whose session SQL of a database runs. The user of the server gets in as
  # it, who is superuser anyway; and its own system user still does, since the first line that fits a
  # connection decides.
  owners =
    instance: show:
    lib.optionalString (instance.provisionedOwners != [ ]) (
      "# Owners of databases whose init scripts and migrations run as them.\n"
      + lib.concatMapStrings (owner: show "\"${owner}\"" + "\n") instance.provisionedOwners
    );

  hba = instance: ''
    # The module's own programs come in over the socket: they are who they are to the system.
    # "all" does not include replication, which base backups need.
    local all postgres peer map=backstay
    local replication postgres peer map=backstay
    ${owners instance (owner: "local all ${owner} peer map=backstay")}
    # modules.services.postgresql.instances.<name>.authentication
    ${lib.concatMapStrings (entry: line entry + "\n") instance.authentication}
    # Everybody else: their own name on the socket, a password on loopback, nobody from elsewhere.
    local all all peer
    host all all 127.0.0.1/32 scram-sha-256
    host all all ::1/128 scram-sha-256
  '';

  ident =
    instance:
    ''
      # Who may be the superuser postgres on the socket: the user of the server and its helpers, and root,
      # who can become that user anyway.
      backstay ${instance.user} postgres
      backstay root postgres
    ''
    + owners instance (owner: "backstay ${instance.user} ${owner}\nbackstay ${owner} ${owner}")
    + lib.optionalString (instance.identMap != "") ''

      # modules.services.postgresql.instances.<name>.identMap
      ${lib.removeSuffix "\n" instance.identMap}
    '';

  # Methods that let somebody in without a proof, or with one that can be read or replayed.
  weakMethods = [
    "trust"
    "password"
    "md5"
  ];

  # The lines of the text of `authentication`, without comments.
  rawLines =
    entries:
    builtins.filter (text: text != "") (
      map (text: lib.trim (builtins.head (lib.splitString "#" text))) (
        lib.concatMap (lib.splitString "\n") (builtins.filter builtins.isString entries)
      )
    );

  # A method stands alone between blanks; in another column the same word would be a name, which
  # has to be quoted then.
  weakLines =
    entries:
    builtins.filter (
      text:
      let
        words = builtins.filter (word: builtins.isString word && word != "") (builtins.split "[ \t]+" text);
      in
      builtins.any (word: builtins.elem word weakMethods) (lib.drop 3 words)
    ) (rawLines entries);
}
