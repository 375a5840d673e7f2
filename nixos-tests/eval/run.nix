# Runs the evaluation tests: how many passed, and what failed.
#
#     nix-instantiate --eval --strict --json nixos-tests/eval/run.nix --arg lib "import <nixpkgs/lib>"
#     nix-instantiate --eval --strict --json nixos-tests/eval/run.nix --argstr only instances
#
# A file of `tests/` is `{ lib, evalHost, ... }: { "test sentence" = { expr = …; expected = …; }; }`. All its attributes run.
{
  lib ? import <nixpkgs/lib>,
  # Name of one file of `tests/`, without ".nix". Everything runs when it is left out.
  only ? null,
}:
let
  harness = import ./. { inherit lib; };

  areas = lib.filter (area: only == null || area == only) (
    map (file: lib.removeSuffix ".nix" (baseNameOf file)) (harness.nixFilesIn ./tests)
  );

  # A value that JSON can say.
  printable =
    value:
    if builtins.isFunction value then
      "<function>"
    else if lib.isDerivation value then
      "<derivation ${value.name}>"
    else if builtins.isAttrs value then
      lib.mapAttrs (_: printable) value
    else if builtins.isList value then
      map printable value
    else
      value;

  evaluationFailed = "the evaluation failed; evaluate this test alone to see why";

  # A failure, or nothing.
  judge =
    area: name: test:
    let
      result = builtins.tryEval (builtins.deepSeq test.expr test.expr);
    in
    if result.success && result.value == test.expected then
      [ ]
    else
      [
        {
          inherit area name;
          expected = printable test.expected;
          result = if result.success then printable result.value else evaluationFailed;
        }
      ];

  runArea =
    area:
    let
      tests = builtins.tryEval (
        let
          attributes = import (./tests + "/${area}.nix") (harness // { inherit lib; });
        in
        # Names are sentences, and begin so that lib.runTests would find them too.
        assert lib.all (lib.hasPrefix "test ") (lib.attrNames attributes);
        attributes
      );
      failures = lib.concatLists (lib.mapAttrsToList (judge area) tests.value);
    in
    if tests.success then
      {
        count = lib.length (lib.attrNames tests.value);
        inherit failures;
      }
    else
      {
        count = 1;
        failures = [
          {
            inherit area;
            name = "the file evaluates, and all its names begin with \"test \"";
            expected = true;
            result = evaluationFailed;
          }
        ];
      };

  results = map runArea areas;
  failures = lib.concatMap (result: result.failures) results;
in
assert lib.assertMsg (areas != [ ]) "there is no file ${only}.nix in nixos-tests/eval/tests";
{
  inherit failures;
  passed = lib.foldl' (sum: result: sum + result.count) 0 results - lib.length failures;
}
