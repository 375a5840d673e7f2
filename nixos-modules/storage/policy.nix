# What a snapshot policy says.
{ lib }:
rec {
  # What sanoid ends up with: its own defaults, the templates in their order, then what the dataset says itself.
  effective =
    templates: dataset:
    lib.foldl' (a: b: a // b)
      {
        frequently = 0;
        frequentPeriodMinutes = 15;
      }
      (
        map (template: templates.${template}) (lib.filter (template: templates ? ${template}) dataset.useTemplate)
        ++ [ (lib.filterAttrs (_: value: value != null) dataset.retention) ]
      );

  # Seconds between two snapshots of a dataset, or null where sanoid takes none.
  secondsBetween =
    templates: dataset:
    let
      policy = effective templates dataset;
      day = 24 * 60 * 60;
      periods =
        lib.optional (policy.frequently > 0) (policy.frequentPeriodMinutes * 60)
        ++ lib.concatMap (kind: lib.optional (policy.${kind.name} or 0 > 0) kind.seconds) [
          {
            name = "hourly";
            seconds = 60 * 60;
          }
          {
            name = "daily";
            seconds = day;
          }
          {
            name = "weekly";
            seconds = 7 * day;
          }
          {
            name = "monthly";
            seconds = 31 * day;
          }
          {
            name = "yearly";
            seconds = 366 * day;
          }
        ];
    in
    if !(if dataset.autosnap != null then dataset.autosnap else policy.autosnap or true) || periods == [ ] then
      null
    else
      lib.head periods;

  # How many snapshots of each kind, without the settings that are no counts.
  counts = retention: lib.attrValues (removeAttrs retention [ "frequentPeriodMinutes" ]);

  # A dataset that says nothing about its snapshots is only replicated. sanoid would give it the
  # policy that it has built in.
  hasPolicy =
    dataset:
    dataset.useTemplate != [ ] || lib.any (count: count != null) (counts dataset.retention);
}
