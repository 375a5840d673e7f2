# The text of docs/reference/options.md: every option of the modules, as they declare it.
#
#     nix-instantiate --eval --strict --json nixos-tests/eval/reference.nix --arg lib "import <nixpkgs/lib>"
{
  lib ? import <nixpkgs/lib>,
}:
let
  harness = import ./. { inherit lib; };
  options = import ./options.nix { inherit lib; } (harness.evalHost [ ]).options;

  root = toString ../.. + "/";

  # A section for each instance-wide or host-wide group: as deep as `instances.<name>.backup`.
  groupOf =
    option:
    let
      parent = lib.init option.loc;
    in
    lib.showOption (lib.take 6 parent);

  # Nix code as a literal; a default that is described in words is Markdown already.
  text =
    value:
    if value._type or "" == "literalMD" then
      lib.trim value.text
    else if value ? _type then
      code value.text
    else
      code (
        lib.generators.toPretty {
          multiline = true;
          allowPrettyValues = true;
        } value
      );

  # Code that spans lines has to stand below its label.
  code =
    value:
    let
      trimmed = lib.trim value;
    in
    if lib.hasInfix "\n" trimmed then
      "\n\n" + lib.concatMapStringsSep "\n" (line: "      ${line}") (lib.splitString "\n" trimmed) + "\n"
    else
      "`${trimmed}`";

  labelled =
    label: value: "- ${label}:${lib.optionalString (!lib.hasPrefix "\n" value) " "}${value}\n";

  # In NixOS' manual the link [](#opt-a.b._name_.c) shows the name of the option.
  description =
    option:
    lib.concatMapStrings
      (part: if builtins.isList part then "`${withPlaceholders (lib.head part)}`" else part)
      (
        builtins.split "\\[]\\(#opt-([^)]*)\\)" (lib.trim (option.description.text or option.description))
      );
  withPlaceholders = lib.replaceStrings [ "._name_" ] [ ".<name>" ];

  declaredIn =
    option:
    lib.concatMapStringsSep ", " (
      file:
      let
        path = lib.removePrefix root (toString file);
      in
      "[${path}](../../${path})"
    ) (lib.unique (lib.naturalSort (map toString option.declarations)));

  entry =
    option:
    "### `${lib.showOption option.loc}`\n\n${description option}\n\n"
    + "- Type: ${option.type.description}${lib.optionalString (option.readOnly or false) ", read only"}\n"
    + (
      if option ? defaultText then
        labelled "Default" (text option.defaultText)
      else if option ? default then
        labelled "Default" (text option.default)
      else if (option.type.emptyValue or { }) ? value then
        labelled "Default" (text option.type.emptyValue.value)
      else
        "- Required\n"
    )
    + lib.optionalString (option ? example) (labelled "Example" (text option.example))
    + "- Declared in ${declaredIn option}\n";

  groups = lib.groupBy groupOf options;

  # As GitHub and most others make it of a heading.
  anchor =
    name:
    lib.concatStrings (lib.filter lib.isString (builtins.split "[^a-z0-9_-]" (lib.toLower name)));

  section =
    name: members: "## `${name}`\n\n${lib.concatStringsSep "\n" (map entry members)}";
in
''
  # Options of the NixOS modules

  Every option below `modules`, from the modules themselves; `cargo xtask` writes this page. `<name>` is a name of your
  choice, `*` an element of a list.

''
+ lib.concatMapStrings (name: "- [`${name}`](#${anchor name})\n") (lib.attrNames groups)
+ "\n"
+ lib.concatStringsSep "\n" (lib.mapAttrsToList section groups)
