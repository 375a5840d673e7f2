# Every declaration in the documents for users evaluates, without a failed assertion and without a warning.
#
# Nix evaluates files and not texts, so each declaration stands in a file of `guides/` too, and the two are compared.
{ lib, evalHost, nixFilesIn, ... }:
let
  declarations = nixFilesIn ../guides;

  # The texts between "```nix" and "```".
  snippetsOf =
    file:
    map (part: lib.head (lib.splitString "```" part)) (
      lib.tail (lib.splitString "```nix\n" (builtins.readFile file))
    );

  judge =
    file:
    let
      host = evalHost [ (import file) ];
    in
    {
      inherit (host) failedAssertions warnings;
      hasServer = host.units ? "postgresql-main.service";
    };
in
{
  "test the declarations of the guides are those that are evaluated here" = {
    expr = lib.sort lib.lessThan (snippetsOf ../../../docs/guides/nixos.md);
    expected = lib.sort lib.lessThan (map builtins.readFile declarations);
  };
  "test every declaration of a guide is accepted as it stands" = {
    expr = map judge declarations;
    expected = map (_: {
      failedAssertions = [ ];
      warnings = [ ];
      hasServer = true;
    }) declarations;
  };
}
