# The secrets of restic repositories for a unit that only reads them: by these names our programs look for
# what the settings say of a repository.
{ lib }:
let
  # "%" begins a specifier in a unit file.
  escape = lib.replaceStrings [ "%" ] [ "%%" ];
in
repositories:
let
  secrets = lib.concatMap (
    repository:
    [
      {
        id = "restic-password-${repository.name}";
        file = repository.passwordFile;
      }
    ]
    ++ lib.optional (repository.environmentFile != null) {
      id = "restic-environment-${repository.name}";
      file = repository.environmentFile;
    }
  ) repositories;
in
{
  LoadCredential = map (secret: "${secret.id}:${escape secret.file}") secrets;
  # A secret that is missing would fail a unit that needs no repository this time. So it is an empty line
  # instead, and the repository cannot be asked. (systemd.exec(5): SetCredential= is the default of
  # LoadCredential=.)
  SetCredential = map (secret: "${secret.id}:\\n") secrets;
}
