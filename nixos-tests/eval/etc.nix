# What becomes of `environment.etc`: texts, links and modes, by absolute path.
{ lib, config }:
let
  entries = lib.filter (entry: entry.enable) (lib.attrValues config.environment.etc);
  path = entry: "/etc/${entry.target}";

  # The text of a generated file, or of a file of this repository. A string without context is a path of the machine that will
  # run, and becomes a link.
  textOf =
    source:
    if source ? text then
      source.text
    else if builtins.isPath source then
      builtins.readFile source
    else
      null;

  byPath =
    value: selected:
    lib.listToAttrs (map (entry: lib.nameValuePair (path entry) (value entry)) selected);
  hasText = entry: textOf entry.source != null;
in
{
  files = byPath (entry: textOf entry.source) (lib.filter hasText entries);
  links = byPath (entry: "${entry.source}") (lib.filter (entry: !hasText entry) entries);
  modes = byPath (entry: "${entry.mode} ${entry.user}:${entry.group}") (
    lib.filter (entry: entry.mode != "symlink") entries
  );
}
